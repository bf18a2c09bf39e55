// SPDX-License-Identifier: Apache-2.0
// A GPU without arithmetic: driver, CUDA libraries, NCCL and MindSpore's own kernels in one library.
// Memory is the host's and copies are made; everything else is counted and left undone. What stands
// here needs more than `return 0`, which build.py writes for all other functions.
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

// ---- Counting -------------------------------------------------------------------------------------
struct call { const char *name; long count; };
extern struct call fake_calls[];  // written by build.py, ends without a name
enum direction { HOST_TO_HOST, TO_DEVICE, TO_HOST, ON_DEVICE, DIRECTIONS };
static const char *const direction_names[] = {"host to host", "to device", "to host", "on device"};
static long copies[DIRECTIONS], copied_bytes[DIRECTIONS], reductions;
enum { TENSOR_CORES = 1, MATH_TYPES = 4 };
static long math_types[MATH_TYPES];  // asked for when a convolution is prepared, so never reset

void fake_gpu_reset(void) {
  for (struct call *call = fake_calls; call->name; call++) call->count = 0;
  memset(copies, 0, sizeof copies);
  memset(copied_bytes, 0, sizeof copied_bytes);
  reductions = 0;
}

// Lines of a name, how often, and how many bytes.
void fake_gpu_write(const char *path) {
  FILE *file = fopen(path, "w");
  if (!file) abort();
  for (struct call *call = fake_calls; call->name; call++)
    if (call->count) fprintf(file, "%s %ld 0\n", call->name, call->count);
  for (int i = 0; i < DIRECTIONS; i++) fprintf(file, "copy %s %ld %ld\n", direction_names[i], copies[i], copied_bytes[i]);
  fprintf(file, "ncclAllReduce %ld 0\n", reductions);
  fprintf(file, "convolutions on tensor cores %ld 0\n", math_types[TENSOR_CORES]);
  fclose(file);
}

// ---- Memory: pages that nobody touches cost nothing -------------------------------------------------
static const size_t CAPACITY = 80ul << 30;
static size_t used;
static const void *reduced;  // where the last AllReduce has left its sum

int cudaMalloc(void **made, size_t bytes) {
  used += bytes;
  *made = mmap(NULL, bytes + 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return *made == MAP_FAILED ? 2 : 0;
}
int cudaHostAlloc(void **made, size_t bytes, unsigned flags) {
  *made = malloc(bytes + 1);
  return *made ? 0 : 2;
}
int cudaFreeHost(void *memory) { free(memory); return 0; }
int cudaMemGetInfo(size_t *free_bytes, size_t *total) {
  *total = CAPACITY;
  *free_bytes = CAPACITY - used;
  return 0;
}
int cudaMemset(void *memory, int value, size_t bytes) { memset(memory, value, bytes); return 0; }
int cudaMemsetAsync(void *memory, int value, size_t bytes, void *stream) { return cudaMemset(memory, value, bytes); }

// A few bytes on their way to the host are a result, which no kernel has computed: zeros, so that
// memory used before is not taken for a loss or a request to stop.
int cudaMemcpy(void *to, const void *from, size_t bytes, int direction) {
  __sync_fetch_and_add(&copies[direction], 1);
  __sync_fetch_and_add(&copied_bytes[direction], bytes);
  if (direction == TO_HOST && bytes <= 64 && from != reduced) memset(to, 0, bytes);
  else memmove(to, from, bytes);
  return 0;
}
int cudaMemcpyAsync(void *to, const void *from, size_t bytes, int direction, void *stream) {
  return cudaMemcpy(to, from, bytes, direction);
}

// ---- The device -----------------------------------------------------------------------------------
struct properties {  // as in CUDA 11, as far as MindSpore reads it
  char name[256], uuid[16], luid[8];
  unsigned node_mask;
  size_t memory, shared_memory;
  int registers, warp;
  size_t pitch;
  int threads, block[3], grid[3], clock;
  size_t constants;
  int major, minor;
  size_t alignments[2];
  int overlap, processors;
};
static int setting(const char *name, int otherwise) {
  const char *text = getenv(name);
  return text ? atoi(text) : otherwise;
}
int cudaGetDeviceCount(int *count) { *count = setting("FAKE_GPU_COUNT", 1); return 0; }
int cudaGetDeviceProperties(struct properties *found, int device) {
  int capability = setting("FAKE_GPU_CAPABILITY", 80);
  strcpy(found->name, "a GPU without arithmetic");
  found->memory = CAPACITY;
  found->shared_memory = 48 << 10;
  found->registers = 65536;
  found->warp = 32;
  found->threads = found->block[0] = found->block[1] = 1024;
  found->block[2] = 64;
  found->grid[0] = INT32_MAX;
  found->grid[1] = found->grid[2] = 65535;
  found->major = capability / 10;
  found->minor = capability % 10;
  found->processors = 108;
  return 0;
}
int cudaEventElapsedTime(float *milliseconds, void *from, void *to) { *milliseconds = 1; return 0; }
int nvrtcVersion(int *major, int *minor) { *major = 11; *minor = 8; return 0; }
int cuGetErrorName(int error, const char **name) { *name = "an error"; return 0; }
const char *cudaGetErrorName(int error) { return "an error"; }
const char *cudaGetErrorString(int error) { return "an error"; }
const char *cudnnGetErrorString(int error) { return "an error"; }
int fake_gpu_create(void **made) { *made = calloc(1, 256); return 0; }  // handle, descriptor, event

// ---- cuDNN: a descriptor is the number of bytes of what it describes ------------------------------
static int describe(size_t *bytes, int type, int count, const int *dims) {
  *bytes = type == 2 ? 2 : type == 1 ? 8 : 4;  // half, double, others
  for (int i = 0; i < count; i++) *bytes *= dims[i];
  return 0;
}
int cudnnSetTensorNdDescriptor(size_t *d, int type, int n, const int *dims, const int *strides) { return describe(d, type, n, dims); }
int cudnnSetTensorNdDescriptorEx(size_t *d, int format, int type, int n, const int *dims) { return describe(d, type, n, dims); }
int cudnnSetFilterNdDescriptor(size_t *d, int type, int format, int n, const int *dims) { return describe(d, type, n, dims); }
int cudnnSetTensor4dDescriptor(size_t *d, int format, int type, int n, int c, int h, int w) { return describe(d, type, 4, (int[]){n, c, h, w}); }
int cudnnSetFilter4dDescriptor(size_t *d, int type, int format, int n, int c, int h, int w) { return describe(d, type, 4, (int[]){n, c, h, w}); }
int cudnnGetTensorSizeInBytes(const size_t *d, size_t *bytes) { *bytes = *d; return 0; }
int cudnnGetFilterSizeInBytes(const size_t *d, size_t *bytes) { *bytes = *d; return 0; }

int cudnnSetConvolutionMathType(void *convolution, int type) {
  __sync_fetch_and_add(&math_types[type % MATH_TYPES], 1);
  return 0;
}

// One algorithm, number 1, that works and wants no workspace (cudnnConvolutionFwdAlgoPerf_t and its
// like have 48 bytes, all 0 but the first word).
#define ALGORITHM(function)                                                                      \
  int function(void *h, void *a, void *b, void *c, void *d, int wanted, int *found, int *result) { \
    *found = 1;                                                                                  \
    memset(result, 0, 48);                                                                       \
    *result = 1;                                                                                 \
    return 0;                                                                                    \
  }
ALGORITHM(cudnnGetConvolutionForwardAlgorithm_v7)
ALGORITHM(cudnnFindConvolutionForwardAlgorithm)
ALGORITHM(cudnnGetConvolutionBackwardDataAlgorithm_v7)
ALGORITHM(cudnnFindConvolutionBackwardDataAlgorithm)
ALGORITHM(cudnnGetConvolutionBackwardFilterAlgorithm_v7)
ALGORITHM(cudnnFindConvolutionBackwardFilterAlgorithm)

// Sizes of workspaces, by the place of the pointer among the arguments.
static int workspace(size_t *bytes) { *bytes = 4096; return 0; }
typedef void *any;
int cudnnGetReductionWorkspaceSize(any a, any b, any c, any d, size_t *n) { return workspace(n); }
int cudnnGetReductionIndicesSize(any a, any b, any c, any d, size_t *n) { return workspace(n); }
int cudnnGetConvolutionForwardWorkspaceSize(any a, any b, any c, any d, any e, int f, size_t *n) { return workspace(n); }
int cudnnGetConvolutionBackwardDataWorkspaceSize(any a, any b, any c, any d, any e, int f, size_t *n) { return workspace(n); }
int cudnnGetConvolutionBackwardFilterWorkspaceSize(any a, any b, any c, any d, any e, int f, size_t *n) { return workspace(n); }
int cudnnGetBatchNormalizationTrainingExReserveSpaceSize(any a, int b, int c, any d, any e, size_t *n) { return workspace(n); }
int cudnnGetBatchNormalizationForwardTrainingExWorkspaceSize(any a, int b, int c, any d, any e, any f, any g, any h, size_t *n) { return workspace(n); }
int cudnnGetBatchNormalizationBackwardExWorkspaceSize(any a, int b, int c, any d, any e, any f, any g, any h, any i, any j, size_t *n) { return workspace(n); }

// ---- NCCL: sums of float32 over the processes, through a file in memory ---------------------------
enum { SLOT = 1 << 20 };
struct meeting {
  atomic_int arrived, round;
  char slots[][SLOT];
};
struct communicator { struct meeting *meeting; int ranks, rank; };
struct unique_id { char bytes[128]; };

int ncclGetUniqueId(struct unique_id *id) {
  snprintf(id->bytes, sizeof id->bytes, "/dev/shm/fake_gpu.%d.%ld", getpid(), random());
  return 0;
}
static void meet(struct communicator *comm) {
  struct meeting *m = comm->meeting;
  int round = m->round;
  if (atomic_fetch_add(&m->arrived, 1) + 1 == comm->ranks) {
    m->arrived = 0;
    m->round++;
  } else {
    while (m->round == round) sched_yield();
  }
}
int ncclCommInitRank(struct communicator **made, int ranks, struct unique_id id, int rank) {
  size_t bytes = sizeof(struct meeting) + (size_t)ranks * SLOT;
  int file = open(id.bytes, O_RDWR | O_CREAT, 0600);
  if (file < 0 || ftruncate(file, bytes)) return 2;
  *made = calloc(1, sizeof **made);
  **made = (struct communicator){mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0), ranks, rank};
  close(file);
  if ((*made)->meeting == MAP_FAILED) return 2;
  meet(*made);
  unlink(id.bytes);  // all have it open
  return 0;
}
int ncclAllReduce(const void *from, void *to, size_t count, int type, int op, struct communicator *comm, void *stream) {
  reductions++;
  reduced = to;
  if (type != 7) {  // float32 alone is added up
    memmove(to, from, count * (type == 6 ? 2 : 4));
    return 0;
  }
  for (size_t done = 0; done < count; done += SLOT / 4) {
    size_t part = count - done < SLOT / 4 ? count - done : SLOT / 4;
    memcpy(comm->meeting->slots[comm->rank], (const float *)from + done, part * 4);
    meet(comm);
    for (size_t i = 0; i < part; i++) {
      float sum = 0;
      for (int rank = 0; rank < comm->ranks; rank++) sum += ((float *)comm->meeting->slots[rank])[i];
      ((float *)to)[done + i] = sum;
    }
    meet(comm);
  }
  return 0;
}
