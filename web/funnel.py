"""The funnel of data.py's run: what every stage did, as docs/report.json and as a table.

    {"stages": {"url": {"documents_in": 3000, "documents_out": 2860, "bytes_in": ..., "seconds": 1,
                        "reasons": {"domain": 80, ...},
                        "examples": {"domain": [{"url": ..., "text": ...}, ...]}},
                "rights": ...},
     "settings": ..., "reader": counts of the reader of WARCs, "linked": see data.p_linked}
"""

from collections import Counter, defaultdict

from run import runs

WIDTH = 80                      # columns of the table
MAX_EXAMPLES, MAX_TEXT = 3, 300                             # of each reason; characters of each
NOTE = ("seconds are CPU seconds of the stage, summed over workers; linked is the probability that "
        "minhash links two texts that share this part of their shingles")


class Funnel:
    """Counts of every stage. Documents are added as they leave a pass of the run."""

    def __init__(self, stages, settings, linked):
        self.settings, self.linked, self.reader = settings, linked, Counter()
        self.counts = {stage: Counter() for stage in stages}
        self.reasons = {stage: Counter() for stage in stages}
        self.examples = {stage: defaultdict(list) for stage in stages}

    def add(self, doc):
        """Count a document by its trail, and why it went."""
        for stage, bytes_in, bytes_out, seconds in doc["trail"]:
            self.counts[stage].update(documents_in=1, documents_out=1, bytes_in=bytes_in,
                                      bytes_out=bytes_out, seconds=seconds)
        if doc["reason"]:
            self.counts[stage]["documents_out"] -= 1
            self.reasons[stage][doc["reason"]] += 1
            examples = self.examples[stage][doc["reason"]]
            if len(examples) < MAX_EXAMPLES:
                examples.append({"url": doc["url"], "text": doc.get("text", "")[:MAX_TEXT]})

    def counted(self):
        """What was counted so far, for JSON: counts, reasons and examples of every stage."""
        return {"reader": self.reader, "counts": self.counts, "reasons": self.reasons,
                "examples": self.examples}

    def merge(self, counted):
        """Add what another funnel of the same stages has counted, of documents that come later."""
        self.reader.update(counted["reader"])
        for stage, counts in counted["counts"].items():
            self.counts[stage].update(counts)
            self.reasons[stage].update(counted["reasons"][stage])
            for reason, examples in counted["examples"][stage].items():
                mine = self.examples[stage][reason]
                mine += examples[:MAX_EXAMPLES - len(mine)]

    def report(self):
        """The contents of report.json."""
        stages = {}
        for stage, counts in self.counts.items():
            stages[stage] = {
                "documents_in": counts["documents_in"],
                "documents_out": counts["documents_out"],
                "bytes_in": counts["bytes_in"],
                "bytes_out": counts["bytes_out"],
                "seconds": round(counts["seconds"], 3),
                "reasons": dict(self.reasons[stage].most_common()),
                "examples": self.examples[stage],
            }
        return {
            "settings": vars(self.settings),
            "stages": stages,
            "reader": dict(sorted(self.reader.items())),
            "linked": self.linked,
            "note": NOTE,
        }

    def table(self):
        """A line for each stage: documents kept, the share that it dropped, MB kept, CPU seconds.

        Behind that stand the most frequent reasons, as many as there is room for, without Gopher's
        name. The report has them all.
        """
        lines = [f"{'stage':17}{'kept':>9}{'dropped':>8}{'MB':>7}{'CPU s':>7}  reasons"]
        for stage, counts in self.counts.items():
            n_in, n_out = counts["documents_in"], counts["documents_out"]
            dropped = 1 - n_out / max(n_in, 1)
            line = (f"{stage:17}{n_out:>9}{dropped:>8.1%}"
                    f"{counts['bytes_out'] / 1e6:>7.1f}{counts['seconds']:>7.1f}  ")
            reasons = []
            for reason, n in self.reasons[stage].most_common():
                reasons.append(f"{reason.removeprefix('gopher_')} {n}")
            lines.append((line + fitting(reasons, WIDTH - len(line))).rstrip())
        return "\n".join(lines)

    def summary(self):
        """The run in one line: pages in, documents out, seconds."""
        first, *_, last = self.counts.values()
        n_in, n_out = first["documents_in"], last["documents_out"]
        read = f"{n_in:,} pages, {first['bytes_in'] / 1e6:.1f} MB"
        made = f"{n_out:,} documents ({n_out / n_in:.0%}), {last['bytes_out'] / 1e6:.1f} MB"
        return runs.row("data", read, made)


def fitting(names, width):
    """As many of the names as fit into a line. The first one is cut if it does not.

    >>> fitting(["one", "two", "three"], 9)
    'one, two'
    """
    line = names[0] if names else ""
    for name in names[1:]:
        if len(line) + len(name) + 2 > width:
            break
        line += f", {name}"
    return line[:width]
