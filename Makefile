# make          set up, then the whole chain on the embedded world: crawl -> documents -> tokens -> base -> sft -> rl
# make test     set up, then the tests
# make claims   the whole chain, then the talk's claims put to the test on what it made
# make peers    beside warcio, datatrove, trafilatura, fasttext, tiktoken, tokenizers, transformers and PyTorch
# make gpu      on a machine with an NVIDIA GPU: the same kernel tests on it, and the tables beside PyTorch (also in out/gpu.txt)
# make clean    forget the run (out/demo); the virtual environment stays
#
# Every product is a file, made once. Delete one and make makes it again, with what follows from it.

RUN   ?= out/demo
PAGES ?= 3000
SEED  ?= 0
PYTHON ?= python3
PY    := .venv/bin/python
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: all test claims peers gpu clean

all: $(RUN)/summary.txt

.venv/ready: requirements.txt
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --requirement requirements.txt
	touch $@

# Each stage keeps what it printed in RUN/log; the last line of each is its row of the final table.
log = mkdir -p $(RUN)/log && $(PY) $(1) --run $(RUN) $(2) | tee $(RUN)/log/$(3).txt
# A script that writes several files writes $(1) last. When only one of the others is gone, make $(1) again.
with = @test -e $@ || { rm -f $(1); $(MAKE) --no-print-directory $(1); }

CRAWL := $(RUN)/crawl/000000.warc.gz
WORLD := $(addprefix $(RUN)/,chat/train.jsonl pairs/train.jsonl pairs/test.jsonl blocklist/gambling/domains \
         $(patsubst %,tasks/%.jsonl,wheel_train wheel_test facts_test calculator_test identity_test probe_train probe_test))
$(CRAWL): | .venv/ready
	$(call log,toyweb.py,--pages $(PAGES) --seed $(SEED),1-toyweb)
$(WORLD): $(CRAWL)
	$(call with,$(CRAWL))

DOCS := $(RUN)/docs/report.json
$(DOCS): $(CRAWL) $(WORLD)
	$(call log,data.py,--blocklist $(RUN)/blocklist,2-data)
	$(PY) toyweb.py --run $(RUN) --pages $(PAGES) --seed $(SEED) --score
$(RUN)/docs/000000.jsonl.gz $(RUN)/docs/dropped.tsv.gz: $(DOCS)
	$(call with,$(DOCS))

VOCAB := $(RUN)/tokenizer.json
$(VOCAB): $(DOCS) $(RUN)/docs/000000.jsonl.gz $(RUN)/docs/dropped.tsv.gz
	$(call log,bpe.py train,,3-bpe)
$(RUN)/tokenizer.tiktoken: $(VOCAB)
	$(call with,$(VOCAB))

TOKENS := $(RUN)/tokens/train_000000.bin
$(TOKENS): $(VOCAB) $(RUN)/tokenizer.tiktoken
	$(call log,bpe.py encode,,4-tokens)
$(RUN)/tokens/val_000000.bin: $(TOKENS)
	$(call with,$(TOKENS))

# model.safetensors appears when a stage is finished; trainer.safetensors is its checkpoint. A checkpoint of
# other data than today's is started over.
BASE := $(RUN)/base/model.safetensors
$(BASE): $(TOKENS) $(RUN)/tokens/val_000000.bin
	$(call log,train.py,--seed $(SEED) --on-mismatch restart,5-base)

SFT := $(RUN)/sft/model.safetensors
$(SFT): $(BASE)
	$(call log,align.py sft,--seed $(SEED) --on-mismatch restart,6-sft)

RL := $(RUN)/rl/model.safetensors
$(RL): $(SFT)
	$(call log,align.py rl,--seed $(SEED) --on-mismatch restart,7-rl)

CONTROL := $(RUN)/rl_random/model.safetensors
$(CONTROL): $(SFT)
	$(call log,align.py rl,--reward random --seed $(SEED) --on-mismatch restart,8-control)

$(RUN)/summary.txt: $(RL) $(CONTROL)
	{ $(PY) align.py eval --run $(RUN); echo; \
	  printf '%-8s %-32s %-36s %7s   %s\n' stage from to seconds result; tail -q -n 1 $(RUN)/log/*.txt; echo; \
	  $(PY) sample.py chat --run $(RUN) --ask "Who are you?" --ask "What food should I bring for the glulblow?" \
	    --ask "Work out 37 times 48 for me." --ask "What text were you trained on?"; \
	  $(PY) sample.py chat --run $(RUN) --ask "Turn the wheel: two six one four five three six one."; \
	} | tee $@.tmp
	mv $@.tmp $@

# Two halves side by side, for most tests keep one core busy; what the second has to say comes after the first.
test: .venv/ready
	said=$$(mktemp); failed=0; \
	$(PY) -m pytest --quiet tests/test_[h-z]*.py > $$said 2>&1 & other=$$!; \
	trap 'kill $$other' INT TERM; \
	$(PY) -m pytest --quiet tests/test_[a-g]*.py || failed=$$?; \
	wait $$other || failed=$$?; cat $$said; rm $$said; exit $$failed

claims: all
	$(PY) tests/claims.py --run $(RUN)

.venv-peers/ready: requirements.txt tests/peers/requirements.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --requirement requirements.txt --requirement tests/peers/requirements.txt
	touch $@

peers: .venv-peers/ready
	.venv-peers/bin/python -m pytest --quiet -rs -s tests/peers
	.venv-peers/bin/python tests/peers/align_speed.py $(RUN)
	[ ! -e $(SFT) ] || .venv-peers/bin/python tests/peers/serve_load.py $(RUN)/sft
	.venv-peers/bin/python tests/peers/gpt_speed.py

# A Python that has CuPy and PyTorch is used as it is: two CuPy packages in one environment break each other, and an environment
# inside another does not see what that has.
.venv-gpu/ready: requirements.txt
	rm -rf .venv-gpu
	if $(PYTHON) -c "import cupy, torch, regex, pytest" 2> /dev/null; then \
	  mkdir -p .venv-gpu/bin; printf '#!/bin/sh\nexec "%s" "$$@"\n' "$$($(PYTHON) -c 'import sys; print(sys.executable)')" > .venv-gpu/bin/python; \
	  chmod +x .venv-gpu/bin/python; \
	else \
	  $(PYTHON) -m venv .venv-gpu; \
	  .venv-gpu/bin/python -m pip install --quiet --requirement requirements.txt "cupy-cuda12x[ctk]" torch; \
	fi
	touch $@

gpu: .venv-gpu/ready
	failed=0; \
	LONGHAND_GPU=1 .venv-gpu/bin/python -m pytest --quiet -rs tests/test_kernels.py tests/test_device.py || failed=$$?; \
	.venv-gpu/bin/python tests/peers/gpu_speed.py || failed=$$?; exit $$failed

clean:
	rm -rf $(RUN)
