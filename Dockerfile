# SPDX-License-Identifier: Apache-2.0
# M2Det on the CPU. The current folder is /work inside; logs and outputs land there.
#
#   docker build -t m2det .
#   docker run --rm --shm-size 1g --user "$(id -u):$(id -g)" -v "$PWD:/work" m2det \
#     run_eval.sh 0 CHECKPOINT_PATH DATASET_PATH
#
# The name of any script in scripts/ and its arguments, or -c "python /opt/m2det/demo.py ...".
# The data workers hand batches over in /dev/shm, of which containers get little: hence --shm-size.
FROM python:3.11.11-slim-bookworm

# MindSpore and the compiled NMS need OpenMP's library, which the image lacks.
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/m2det
COPY requirements.txt ./
RUN pip install --no-cache-dir -r requirements.txt

COPY . .
# The compiler is wanted for the NMS only.
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && PYTHON=python bash scripts/make.sh \
    && apt-get purge -y --auto-remove gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

# Any user may run it; one of its own stands by.
RUN useradd --create-home m2det && install -d -o m2det /work
ENV PATH=/opt/m2det/scripts:$PATH PYTHONPATH=/opt/m2det PYTHON=python DEVICE_TARGET=CPU \
    XDG_CACHE_HOME=/tmp/cache
USER m2det
WORKDIR /work
ENTRYPOINT ["bash"]
CMD ["run_standalone_train.sh", "--help"]
