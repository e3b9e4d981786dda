# For a CPU: docker build -t epochal . && docker run --rm -v "$PWD:/home/user/work" epochal quickstart
# pip's settings say where packages come from. An index with torch's CPU build, given with
# --build-arg PIP_EXTRA_INDEX_URL=…, saves the gigabytes of CUDA packages.
FROM python:3.12-slim
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
WORKDIR /opt/epochal
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
RUN pip install --no-cache-dir --constraint constraints.txt . \
    && useradd --create-home --uid 1000 user \
    && install --directory --owner user /home/user/work
USER 1000
WORKDIR /home/user/work
ENTRYPOINT ["epochal"]
CMD ["--help"]
