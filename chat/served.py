"""served.py: the models that a server has loaded.

A model is loaded when somebody first asks for it, and then one writer (batching.Writer), a process
or a thread, writes all its replies. The run may be trained meanwhile: a folder that does not hold a
whole model is left out, and a model whose files have changed is loaded anew. Replies that were
begun end on the old one.
"""

import concurrent.futures
import functools
import os
import threading
from pathlib import Path

import sample
from chat import batching, chain, formats, models
from chat.request import Refused
from chat.writer_process import WriterProcess
from model import folders

FILES = (
    "config.json", "model.safetensors", "model.safetensors.index.json",
    "tokenizer.json", "vocab.json", "merges.txt",
    "tokenizer_config.json", "chat_template.jinja", "generation_config.json",
)
ASSISTANTS, BASES = ("rl", "sft"), ("base",)    # stages of a run, the preferred ones first
LONGEST_NAME = 256
LAST_JOBS = 10      # seconds for which a model that was replaced still takes requests


def signature(folder):
    """Changes with the files of a model folder: ((name, inode, size, time), ...) of each."""
    found = []
    for name in FILES:
        try:
            status = os.stat(f"{folder}/{name}")    # it is asked at each request
        except OSError:
            continue
        found.append((name, status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(found)


@functools.lru_cache
def is_whole(folder, signed):
    """Whether a folder whose files have this signature holds a language model."""
    if not folders.is_finished(folder):
        return False
    try:
        folders.load_config(folder)
        folders.open_tensors(folder)
        there = {name for name, *_ in signed}
        return bool(there & {"tokenizer.json", "vocab.json"}) and not models.is_judge(folder)
    except (ValueError, OSError):
        return False


class Unloaded(Exception):
    """A request asks for a model that must be loaded first, or loaded anew."""


class Models:
    """The models of a run, or of one folder.

    writers   {name: Writer or WriterProcess} of the models that are loaded
    upload    (params, cfg) -> params on the GPU, if one is to write
    dtype     of the matrices on the CPU, as for folders.load
    apart     whether each writer is a process, which is faster, or a thread, which tests look into
    """

    def __init__(
        self, run=None, folder=None, ranks=None, upload=None, apart=False, dtype="float32",
    ):
        self.only = Path(folder).absolute() if folder else None     # the only model, by its folder
        self.run = Path(run) if run and not folder else None
        self.ranks, self.upload, self.apart, self.dtype = ranks, upload, apart, dtype
        self.writers = {}
        self.signatures = {}            # of the models that are loaded, when they were
        self.retired = []               # writers of models that were replaced
        self.loading = {}               # {name: Future of the writer that is being made}
        self.loaders = concurrent.futures.ThreadPoolExecutor()
        self.lock = threading.Lock()    # of the above; not held while a model is loaded
        if self.run and not chain.is_run(self.run):
            what = "no run in that folder" if self.run.is_dir() else "no such run folder"
            raise FileNotFoundError(f"{run}: {what}; make the demo's with: make")

    @property
    def folders(self):
        """{name: folder} of the models that are there now."""
        if self.only:
            return {self.only.name: self.only}
        there = [path.parent for path in sorted(self.run.glob("*/config.json"))]
        return {folder.name: folder for folder in there if is_whole(folder, signature(folder))}

    def name_of(self, asked, preferred):
        """The name of the model that answers: the one asked for, or the first of those preferred.

        Refused if there is none of that name, or if it cannot answer now.
        """
        there = self.folders
        if not asked:
            for known in (there, self.writers):         # what is loaded answers meanwhile
                for name in [*preferred, *known]:
                    if name in known:
                        return name
            message = "the run has no whole model now; try again when one is trained"
            raise Refused(503, message, "model")
        if len(asked) > LONGEST_NAME:
            message = f"model has {len(asked):,} characters, at most {LONGEST_NAME}"
            raise Refused(400, message, "model")
        if asked in there or asked in self.writers:
            return asked
        if self.run and asked in {path.parent.name for path in self.run.glob("*/config.json")}:
            message = "no whole language model in that folder now; it may be in training"
            raise Refused(503, f"{asked}: {message}", "model")
        raise self.unknown(asked)

    def unknown(self, name):
        """The refusal of a model that is not there."""
        message = f"the model {name[:60]!r} does not exist; there are {', '.join(self.folders)}"
        return Refused(404, message, "model", "model_not_found")

    def ready(self, name):
        """The writer of a model if it can be had without loading anything, else None."""
        with self.lock:
            writer, signed = self.writers.get(name), self.signatures.get(name)
            if writer is None or name in self.loading:      # meanwhile the old one answers
                return writer
        folder = self.only or self.run / name
        now = signature(folder)
        return writer if now == signed or self.run and not is_whole(folder, now) else None

    def writer(self, name):
        """The writer of a model, loaded if necessary.

        If several threads ask at once, it is loaded once, and all get the same writer or the same
        error. ValueError or OSError if the model cannot be loaded and never was.
        """
        writer = self.ready(name)
        if not writer:
            with self.lock:
                if name not in self.loading:
                    self.loading[name] = self.loaders.submit(self.load, name)
                loading = self.loading[name]
            writer = loading.result()
        return writer

    def load(self, name):
        """Load a model and start its writer; if that fails, the old writer goes on."""
        folder, old = self.only or self.run / name, self.writers.get(name)
        try:
            now = signature(folder)
            if old and now == self.signatures[name]:        # another thread has just loaded it
                return old
            try:
                writer = self.writer_of(folder)
            except (ValueError, OSError):
                if not old:
                    raise
                self.signatures[name] = now         # do not try again before it changes again
                return old
            if signature(folder) != now:            # it was written while it was read
                writer.close()
                if old:
                    return old
                raise ValueError(f"{folder} is being written; ask again when it is whole")
            writer.start()
            with self.lock:
                self.writers[name], self.signatures[name] = writer, now
                self.retired = [other for other in self.retired if other.is_alive()]
            if old:                     # a request that has just got it may still hand in a job
                self.retired.append(old)
                later = threading.Timer(LAST_JOBS, old.close)
                later.daemon = True
                later.start()
            return writer
        finally:
            with self.lock:
                del self.loading[name]

    def writer_of(self, folder):
        """A new writer with the model of a folder."""
        # Of a writer that is a process, this one needs the model only for what is seldom asked:
        # it leaves matrices in the file, so that memory holds them once.
        dtype = "bfloat16" if self.apart else self.dtype
        model = batching.fitted(sample.load_model(folder, dtype=dtype), folder)
        format_of = formats.load(folder, model[2])
        if self.apart:
            writer = WriterProcess(model, folder, self.upload, self.dtype)
        else:
            writer = batching.Writer(model, upload=self.upload)
        writer.format = format_of
        return writer

    def close(self):
        """Finish the replies that were begun."""
        self.loaders.shutdown()
        writers = [*self.writers.values(), *self.retired]
        for writer in writers:
            writer.close()
        for writer in writers:
            writer.join()
