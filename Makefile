# make demo   from a fresh clone to ranked answers on real text
# make test   everything the suite needs, then the suite
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test oracle lint clean

$(VENV)/base: pyproject.toml CMakeLists.txt $(wildcard src/native/*)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[eval,plot]'
	touch $@

$(VENV)/test: $(VENV)/base
	$(BIN)/python -m pip install --quiet --editable '.[eval,plot,hub,test]'
	touch $@

demo: $(VENV)/base
	$(BIN)/python examples/demo.py

test: $(VENV)/test
	$(BIN)/shortlist models fetch shortlist-embed shortlist-embed-en
	$(BIN)/python -m pytest -m 'not oracle'

# The comparison with torch, sentence-transformers, onnxruntime and others, and the training; installs torch.
oracle: $(VENV)/test
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable '.[eval,plot,hub,test,oracle]'
	$(BIN)/shortlist models fetch shortlist-embed shortlist-embed-en
	$(BIN)/python -m pytest -m oracle

lint: $(VENV)/test
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

clean:
	rm -rf $(VENV) build .demo
