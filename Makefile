# make          set up, then the whole chain: crawl -> documents -> tokens -> base -> sft -> rl
# make test     set up, then the tests
# make exercises  which of your exercises are right (docs/exercises.md)
# make claims   the whole chain, then experiments on what the talk claims
# make peers    comparisons with warcio, datatrove, trafilatura, tiktoken, PyTorch and others
# make pictures the pictures of README.md and docs/, from the run
# make gpu      on a machine with an NVIDIA GPU: the kernel tests on it, and speeds beside PyTorch,
#               in less than six minutes (out/gpu.txt, out/gpu.json)
# make clean    delete the run (out/demo); the virtual environment stays
#
# A finished stage is not made again. Contents decide, not times, so a run may be copied to another
# folder or machine. If one of its files is deleted, make makes it again, and every later file that
# changes with it. See run/runs.py.

RUN   ?= out/demo
PAGES ?= 3000
SEED  ?= 0
PYTHON ?= python3
PY    := .venv/bin/python
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: all world docs vocabulary shards base sft rl control summary rows
.PHONY: test exercises claims peers pictures gpu clean

# The shell, make's own lists of names and clean all read RUN, and clean deletes it. So it must be a
# name that means the same to all of them.
given := $(value RUN)
hash  := \#
comma := ,
signs := $$ ; & | < > ( ) { } [ ] * ? ! ~ ` ' " \ % : = @ $(hash)
strange := $(strip $(foreach c,$(signs),$(findstring $c,$(given))) \
           $(findstring $(comma),$(given)) $(filter .. -%,$(subst /, ,$(given))))
example := Give one: make RUN=out/demo
ifneq ($(words $(given))$(given),1$(strip $(given)))
$(error RUN is "$(given)": expected one folder, without spaces in its name. $(example))
endif
ifneq ($(strange),)
$(error RUN is "$(given)": the name may not contain $(strange). $(example))
endif
ifeq ($(filter-out .,$(subst /, ,$(given))),)
$(error RUN is "$(given)": expected a folder for the run alone. $(example))
endif

all: summary
	@echo
	@echo "The run is in $(RUN). What to try next:"
	@echo
	@echo "    $(PY) sample.py chat$(ELSEWHERE)"
	@echo "        talk to the assistant"
	@echo "    $(PY) sample.py serve$(ELSEWHERE)"
	@echo "        the same, and what goes on inside, on a page: http://127.0.0.1:8000"
	@echo "    make exercises"
	@echo "        write parts of it yourself: docs/exercises.md"
	@echo "    make claims$(if $(ELSEWHERE), RUN=$(RUN))"
	@echo "        put to the test what the talk says"

ELSEWHERE = $(if $(filter-out out/demo,$(RUN)), --run $(RUN))

.venv/ready: requirements.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10) and \
	  'Python ' + sys.version.split()[0] + ' is too old: 3.10 or newer is needed. ' + \
	  'Name one: make PYTHON=python3.12')"
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --requirement requirements.txt
	touch $@

# What each stage is about, as make says it.
ABOUT_1-toyweb := writes a small web, as a crawler stores it
ABOUT_2-data := keeps the pages that are worth reading
ABOUT_score := compares this with the truth about each page
ABOUT_3-bpe := learns which strings become tokens
ABOUT_4-tokens := turns the pages into numbers
ABOUT_5-base := a model learns to continue pages, two minutes
ABOUT_6-sft := it learns to answer questions, two minutes
ABOUT_7-rl := it learns to think, from rewards alone
ABOUT_8-control := the same with rewards by coin toss, to compare
ABOUT_9-summary := asks all three models what they know

# $(call stage,name,what it reads,what it makes,command): patterns of files in the run folder.
stage = @$(PY) -m run.runs --run "$(RUN)" --name $(1) --about "$(ABOUT_$(strip $(1)))" \
  --made-of $(2) --makes $(3) -- $(4) --run "{run}"

TASKS := wheel_train wheel_test facts_test calculator_test typed_test letters_test identity_test \
         probe_train probe_test
WORLD := crawl/*.warc.gz chat/train.jsonl chat/tools.jsonl chat/reading.jsonl \
         pairs/train.jsonl pairs/test.jsonl blocklist/gambling/domains \
         $(patsubst %,tasks/%.jsonl,$(TASKS))
DOCS  := docs/*.jsonl.gz docs/dropped.tsv.gz docs/report.json
VOCAB := tokenizer.json tokenizer.tiktoken
TOKENS := tokens/train_*.bin tokens/val_*.bin
quote = $(patsubst %,'%',$(1))

world: .venv/ready
	$(call stage,1-toyweb,,$(call quote,$(WORLD)),\
	  -m web.toyweb --pages $(PAGES) --seed $(SEED))

docs: world
	$(call stage,2-data,$(call quote,crawl/* blocklist/*/domains),$(call quote,$(DOCS)),\
	  data.py --blocklist "{run}/blocklist")
	$(call stage,score,$(call quote,$(DOCS)),docs/report.json,\
	  -m web.toyweb --pages $(PAGES) --seed $(SEED) --score)

vocabulary: docs
	$(call stage,3-bpe,$(call quote,docs/*.jsonl.gz),$(VOCAB),bpe.py train)

shards: vocabulary
	$(call stage,4-tokens,$(call quote,docs/*.jsonl.gz tokenizer.tiktoken),\
	  $(call quote,$(TOKENS)),bpe.py encode)

# A checkpoint of other data or settings is started over. A finished model stays until the next one
# is finished.
SEEDED = --seed $(SEED) --on-mismatch restart
OF_SFT = base/model.safetensors chat/train.jsonl $(call quote,tasks/*.jsonl $(TOKENS))
OF_RL = sft/model.safetensors chat/train.jsonl $(call quote,tasks/wheel_*.jsonl $(TOKENS))

base: shards
	$(call stage,5-base,tokenizer.json $(call quote,$(TOKENS)),base/model.safetensors,\
	  train.py $(SEEDED))

sft: base
	$(call stage,6-sft,$(OF_SFT),sft/model.safetensors,align.py sft $(SEEDED))

rl: sft
	$(call stage,7-rl,$(OF_RL),rl/model.safetensors,align.py rl $(SEEDED))

control: rl
	$(call stage,8-control,$(OF_RL),rl_random/model.safetensors,\
	  align.py rl --reward random $(SEEDED))

# make -n would run a line that names MAKE itself.
THIS_MAKE := $(MAKE)

summary: control
	@$(PY) -m run.runs --run "$(RUN)" --name 9-summary --about "$(ABOUT_9-summary)" \
	  --made-of 'log/*.txt' '*/model.safetensors' 'tasks/*.jsonl' \
	  --output summary.txt --makes summary.txt -- \
	  $(THIS_MAKE) --no-print-directory --silent rows RUN="{run}"

# The table at the end: what each stage printed last, then a few questions.
rows:
	$(PY) align.py eval --run "$(RUN)"; echo
	printf '%-9s %-23s %-36s %7s\n' stage from to seconds
	tail -q -n 1 "$(RUN)"/log/[1-8]-*.txt; echo
	$(PY) sample.py chat --run "$(RUN)" --ask "Who are you?" \
	  --ask "What food should I bring for the glulblow?" \
	  --ask "Work out 37 times 48 for me." --ask "What text were you trained on?"
	$(PY) sample.py chat --run "$(RUN)" \
	  --ask "Turn the wheel: two six one four five three six one."

# Each file of a run belongs to the stage that makes it.
$(addprefix $(RUN)/,crawl/000000.warc.gz $(filter-out crawl/%,$(WORLD))): world ;
$(addprefix $(RUN)/,docs/000000.jsonl.gz $(filter-out docs/*.jsonl.gz,$(DOCS))): docs ;
$(addprefix $(RUN)/,$(VOCAB)): vocabulary ;
$(addprefix $(RUN)/tokens/,train_000000.bin val_000000.bin): shards ;
$(RUN)/base/model.safetensors: base ;
$(RUN)/sft/model.safetensors: sft ;
$(RUN)/rl/model.safetensors: rl ;
$(RUN)/rl_random/model.safetensors: control ;
$(RUN)/summary.txt: summary ;

# Some tests wait for processes, so that thirds on two cores take a tenth less time than halves.
test: .venv/ready
	said=$$(mktemp -d); failed=0; \
	$(PY) -m pytest --quiet tests/test_[f-p]*.py > $$said/second 2>&1 & second=$$!; \
	$(PY) -m pytest --quiet tests/test_[q-z]*.py > $$said/third 2>&1 & third=$$!; \
	trap 'kill $$second $$third' INT TERM; \
	$(PY) -m pytest --quiet tests/test_[a-e]*.py || failed=$$?; \
	wait $$second || failed=$$?; cat $$said/second; \
	wait $$third || failed=$$?; cat $$said/third; \
	rm -r $$said; exit $$failed

# A wrong exercise (1) is no error of make.
exercises: .venv/ready
	@$(PY) tests/exercises.py check || [ $$? = 1 ]

claims: summary
	$(PY) -m pip install --quiet --requirement talk/requirements.txt || \
	  echo "without matplotlib: the experiments print their tables and draw nothing"
	$(PY) -m talk --run "$(RUN)"

.venv-peers/ready: requirements.txt tests/peers/requirements.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet \
	  --requirement requirements.txt --requirement tests/peers/requirements.txt
	touch $@

peers: .venv-peers/ready
	.venv-peers/bin/python -m pytest --quiet -rs -s tests/peers
	.venv-peers/bin/python tests/planted.py
	.venv-peers/bin/python tests/peers/align_speed.py "$(RUN)"
	[ ! -e "$(RUN)/sft/model.safetensors" ] || \
	  .venv-peers/bin/python tests/peers/serve_load.py "$(RUN)/sft"
	.venv-peers/bin/python tests/peers/gpt_speed.py

pictures: .venv-peers/ready all
	.venv-peers/bin/python tests/peers/pictures.py "$(RUN)"

# A Python that has CuPy and PyTorch is used as it is. Two CuPy packages in one environment break
# each other, and an environment inside another does not see the packages of the outer one.
.venv-gpu/ready: requirements.txt
	rm -rf .venv-gpu
	if $(PYTHON) -c "import cupy, torch, regex, pytest" 2> /dev/null; then \
	  mkdir -p .venv-gpu/bin; python=$$($(PYTHON) -c 'import sys; print(sys.executable)'); \
	  printf '#!/bin/sh\nexec "%s" "$$@"\n' "$$python" > .venv-gpu/bin/python; \
	  chmod +x .venv-gpu/bin/python; \
	else \
	  $(PYTHON) -m venv .venv-gpu; \
	  .venv-gpu/bin/python -m pip install --quiet --requirement requirements.txt \
	    "cupy-cuda12x[ctk]" torch transformers; \
	fi
	touch $@

gpu: .venv-gpu/ready
	.venv-gpu/bin/python tests/peers/gpu_run.py

clean:
	[ ! -e "$(RUN)" ] || [ -d "$(RUN)/log" ] || \
	  { echo "$(RUN): has no log folder, so it is no run; delete it yourself"; exit 1; }
	rm -rf -- "$(RUN)"
