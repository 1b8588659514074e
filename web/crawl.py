"""The web itself: a small polite crawler that writes WARC.

Common Crawl comes about like this: take an address from a queue, ask its host's robots.txt whether
and how often one may come, fetch the page, keep what came over the wire, and put the page's links
at the end of the queue. Here one page is fetched at a time.

    python -m web.crawl https://example.org/ --run out/web

writes out/web/crawl/example.org.warc.gz.

Left out: scripts are not run, cookies not kept; sitemaps, frames and <meta http-equiv=refresh> are
not followed; HTTP/2; proxies. A response is stored as it was received, with its chunks and its
compression, and the digests are of that. (Common Crawl decodes it and renames the headers.)

Sources: RFC 9309 (robots.txt), 9110 (HTTP); ISO 28500 (WARC); Heritrix (hopsFromSeed).
"""
import argparse
import contextlib
import os
import re
import sys
import textwrap
import time
import uuid
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field
from pathlib import Path

from run import command, disk, runs
from web import charset, connection, markup, robots, warc
from web.addresses import host_and_port, in_encoding, normalise
from web.message import HEAD_END
from web.robots import AGENT, allowed, parse_robots

MAX_BODY = 5 << 20              # bytes kept of a page, as in Common Crawl since March 2025
MAX_LINKS = 6000                # taken from a page, as Heritrix does
MAX_MET = 256 << 20             # characters of all addresses that one crawl remembers
MAX_ROBOTS = 500 << 10          # bytes read of a robots.txt; RFC 9309 asks for no less
MAX_REDIRECTS = 5               # in a row
MAX_FAILURES = 5                # of fetches from a host, in a row
MAX_RETRIES = 2                 # of an address whose server is busy
BUSY_S = 30                     # seconds to wait for a busy server that does not say how long
REDIRECTS, BUSY = (301, 302, 303, 307, 308), (429, 503)
WARC_DATE = "%Y-%m-%dT%H:%M:%SZ"


def report(what, more):
    """Print a line of progress."""
    print(f"{what:>12}  {more}", file=sys.stderr, flush=True)


# ----------------------- the file: a record of what the crawl is, then three records for each fetch

def new_id():
    """A new WARC-Record-ID."""
    return f"<{uuid.uuid4().urn}>"


def record(kind, record_id, headers, content_type, block):
    """A WARC record with a digest of its block."""
    digested = {**headers, "WARC-Block-Digest": warc.digest(block)}
    return warc.record_bytes(kind, record_id, digested, content_type, block)


def capture(info_id, address, date, request, response, cut, ip, notes):
    """The request, response and metadata records of one fetch."""
    response_id = new_id()
    payload = response[HEAD_END.search(response).end():]
    common = {"WARC-Date": date, "WARC-Target-URI": address, "WARC-Warcinfo-ID": info_id}
    beside = {**common, "WARC-Concurrent-To": response_id}
    asked = {**beside, "WARC-IP-Address": ip}
    answered = {**common, "WARC-IP-Address": ip, "WARC-Truncated": cut,
                "WARC-Payload-Digest": warc.digest(payload)}
    http, fields = "application/http; msgtype=", "application/warc-fields"
    return (record("request", new_id(), asked, http + "request", request)
            + record("response", response_id, answered, http + "response", response)
            + record("metadata", new_id(), beside, fields, warc.header_lines(notes)))


def take_over(file, info):
    """(id of the warcinfo record, {address: offsets of its responses}) of a crawl's file.

    Captures are flushed whole, so a crawl that was killed left complete ones and perhaps a part of
    one, which is cut off here. In a file with nothing, info becomes the warcinfo record.
    """
    counts, found, offsets = Counter(), [], defaultdict(deque)
    with contextlib.suppress(ValueError):                   # less than a record
        for r in warc.read_warc(file, counts):
            found.append((r.type, r.offset, r.url, r.id))
    if not found or counts["cut_off"] or found[-1][0] not in ("warcinfo", "metadata"):
        requests = [n for n, (kind, *_) in enumerate(found) if kind == "request"]
        last = max(requests, default=0)
        file.truncate(found[last][1] if last else 0)
        del found[last:]
    for kind, offset, address, _ in found:
        if kind == "response" and not address.endswith("/robots.txt"):      # that may have changed
            offsets[address].append(offset)
    if found:
        return found[0][3], offsets
    info_id = new_id()
    date = time.strftime(WARC_DATE, time.gmtime())
    headers = {"WARC-Date": date, "WARC-Filename": Path(file.name).stem}
    file.write(record("warcinfo", info_id, headers, "application/warc-fields", info))
    return info_id, offsets


# ------------------------------------------------------------------------------ the links of a page

def links_of(page, counts):
    """(the links in a page, the address that they are relative to).

    There are none if the page asks not to follow them. counts is told what was left out.
    """
    source, encoding = charset.read(page.body, page.charset)
    stay = any(map(robots.forbids_links, robots.lines(page.http_headers)))
    base, links = None, []
    for _, name, inside in markup.tags(source):
        if name not in ("a", "area", "base", "meta"):
            continue
        if name in ("a", "area") and len(links) == MAX_LINKS:
            counts["beyond_max_links"] += 1
            continue
        tag = markup.attributes(inside)
        if name == "meta":
            stay = stay or robots.forbids_links(robots.of_meta(tag))
        elif name == "base":
            base = tag.get("href") if base is None else base
        elif "href" in tag and "nofollow" in re.split(r"[\s,]+", tag.get("rel", "").lower()):
            counts["nofollow_link"] += 1
        elif "href" in tag:
            links.append(in_encoding(tag["href"], encoding))
    counts["nofollow_page"] += stay
    try:
        base = normalise(base or "", page.url)
    except ValueError:
        base = page.url
    return [] if stay else links, base


# ---------------------------------------------------------------------------------------- the queue

class Queue:
    """The addresses still to be visited, breadth first, and all that the crawl has met.

    Each has the way to it, of L(inks) and R(edirects) from a seed, and the page that named it.
    """

    def __init__(self, seeds, max_depth, other_sites, counts):
        self.max_depth, self.other_sites, self.counts = max_depth, other_sites, counts
        self.waiting = deque((seed, "", None) for seed in seeds)
        self.met, self.hosts = set(seeds), set(map(host_and_port, seeds))
        self.left_out, self.size = set(), 0             # hashes; size of all this, about

    def meet(self, link, base, way, via):
        """Put a link into the queue, or count why not."""
        try:
            address = normalise(link, base)
            why = self.objection(address, way)
        except ValueError:
            address, why = link, "not_http"
        if self.size > MAX_MET:
            self.counts["beyond_max_met"] += 1
        elif why:
            self.counts[why] += hash(address) not in self.left_out      # each address once
            self.left_out.add(hash(address))
            self.size += 100
        elif address in self.met:
            self.counts["redirect_to_known"] += way.endswith("R")
        else:
            self.met.add(address)
            self.size += len(address) + 200
            put = self.waiting.appendleft if way.endswith("R") else self.waiting.append
            put((address, way, via))

    def objection(self, address, way):
        """Why an address is not to be visited, or None."""
        host = host_and_port(address)
        if "L" not in way:              # a seed's redirect to www.example.org is the same site
            self.hosts.add(host)
        if not self.other_sites and host not in self.hosts:
            return "other_site"
        if way.count("L") > self.max_depth:
            return "beyond_max_depth"
        if way.endswith("R" * (MAX_REDIRECTS + 1)):
            return "too_many_redirects"
        return None


# --------------------------------------------------------------------------------------- the visits

class NoAnswer(Exception):
    """A host cannot be reached, or what it sends is no response. The cause says how."""


@dataclass
class Site:
    """What a crawl knows about a host."""
    delay_s: float              # between two visits
    turn: float = 0.0           # when the next visit may be, of time.monotonic
    failures: int = 0           # visits in a row without an answer, or to a busy server
    refused: str = None         # why the host is left alone
    robots: dict = field(default_factory=dict)      # http or https -> rules, why nothing is allowed

    def fail(self, why, for_good=False):
        """Count a failure. After MAX_FAILURES, or if it is for good, the host is left alone."""
        self.failures += 1
        if for_good or self.failures == MAX_FAILURES:
            self.refused = why


class Crawl:
    """Fetches pages: not before a host's turn, not against its robots.txt, and never unrecorded."""

    def __init__(self, file, info, user_agent, delay_s):
        self.file, self.user_agent, self.counts = file, user_agent, Counter()
        self.info_id, self.offsets = take_over(file, info)
        self.sites = defaultdict(lambda: Site(delay_s))

    def fetch(self, address, max_body, **notes):
        """The Record of what the server answers, or answered to the crawl that was killed."""
        if self.offsets.get(address):
            self.counts["taken_over"] += 1
            self.file.seek(self.offsets[address].popleft())
            return next(warc.read_warc(self.file))
        site = self.sites[host_and_port(address)]
        time.sleep(max(0, site.turn - time.monotonic()))
        date, start = time.strftime(WARC_DATE, time.gmtime()), time.monotonic()
        try:
            request, response, cut, ip = connection.exchange(
                address, self.user_agent, max_body)
        except connection.NETWORK_ERRORS as error:
            site.fail("host_fails")
            raise NoAnswer(repr(error)[:300]) from error
        finally:
            end = time.monotonic()
            site.turn = end + site.delay_s
        notes = {"fetchTimeMs": round((end - start) * 1000), **notes}
        self.file.write(capture(self.info_id, address, date, request, response, cut, ip, notes))
        self.file.flush()
        headers = {"warc-type": "response", "warc-target-uri": address, "warc-truncated": cut}
        page, _ = warc.parse_record(headers, response, 0)
        if page.status in BUSY:
            wait_s = connection.retry_after(page.http_headers) or BUSY_S
            site.turn = max(site.turn, end + wait_s)
            site.fail("host_busy", for_good=wait_s > connection.MAX_WAIT_S)
        else:
            site.failures = 0
        return page

    def read_robots(self, address):
        """(the rules in a robots.txt, None or why nothing is allowed). Sets the host's delay."""
        site = self.sites[host_and_port(address)]
        for _ in range(MAX_REDIRECTS + 1):
            page = self.fetch(address, MAX_ROBOTS, hopsFromSeed="P")
            if page.status not in REDIRECTS:
                break
            try:
                address = normalise(page.http_headers.get("location", ""), address)
            except ValueError:
                return [], None
        if page.status >= 500 or page.status in BUSY:
            return [], "robots_unreachable"
        if not 200 <= page.status < 300:                # there is none, so everything is allowed
            return [], None
        lines = page.body[:MAX_ROBOTS].decode("utf-8-sig", "replace").splitlines()
        if page.truncated or len(page.body) > MAX_ROBOTS:
            lines = lines[:-1]                          # which may be half a line
        rules, delay_s = parse_robots(lines)
        if delay_s and delay_s > connection.MAX_WAIT_S:
            return [], "crawl_delay_too_long"
        site.delay_s = max(site.delay_s, delay_s or 0)
        site.turn = max(site.turn, time.monotonic() + site.delay_s)
        return rules, None

    def refusal(self, address):
        """Why an address may not be fetched, or None. Asks its host for robots.txt first."""
        host, scheme = host_and_port(address), address.partition(":")[0]
        site = self.sites[host]
        if scheme not in site.robots and not site.refused:
            try:
                site.robots[scheme] = self.read_robots(f"{scheme}://{host}/robots.txt")
            except NoAnswer as error:
                site.robots[scheme] = [], "robots_unreachable"
                report("robots.txt", f"{scheme}://{host}: {error}")
        rules, nothing = site.robots.get(scheme, ([], None))
        disallowed = None if allowed(rules, address) else "robots_disallow"
        return site.refused or nothing or disallowed

    def run(self, seeds, max_pages, max_depth, other_sites):
        """Visit the seeds, then their links, then theirs. Returns the counts."""
        counts, tries = self.counts, Counter()
        queue = Queue(seeds, max_depth, other_sites, counts)
        while queue.waiting and counts["fetched"] < max_pages:
            visit = address, way, via = queue.waiting.popleft()
            if why := self.refusal(address):
                counts[why] += 1
                report(why, address)
                continue
            counts["fetched"] += 1
            try:
                page = self.fetch(address, MAX_BODY, hopsFromSeed=way or None, via=via)
            except NoAnswer as error:
                counts[f"failed_{type(error.__cause__).__name__}"] += 1
                report("failed", f"{address}: {error}")
                continue
            counts[f"status_{page.status}"] += 1
            counts[f"truncated_{page.truncated}"] += page.truncated is not None
            report(f"{counts['fetched']} of {len(queue.met)}",
                   f"{page.status} {len(page.body):>9,} B  {address}")
            if page.status in BUSY and tries[address] < MAX_RETRIES:
                tries[address] += 1
                queue.waiting.appendleft(visit)         # its host's turn comes when it asked
            elif page.status in REDIRECTS:
                queue.meet(page.http_headers.get("location", ""), address, way + "R", address)
            elif 200 <= page.status < 300 and (page.undecodable or not warc.is_html(page)):
                counts["no_html"] += 1
            elif 200 <= page.status < 300:
                links, base = links_of(page, counts)
                for link in links:
                    queue.meet(link, base, way + "L", address)
        counts["beyond_max_pages"] += len(queue.waiting)
        return +counts                                  # without zeros


def crawl(seeds, path, max_pages=100, max_depth=3, delay_s=1.0, other_sites=False, contact=None):
    """Fetch pages from the addresses in seeds on; write all that came to path, a .warc.gz.

    max_pages: requests at most, without those for robots.txt. max_depth: links from a seed.
    other_sites: follow links to hosts that no seed is on. contact: for the User-Agent. The file is
    path.tmp until it is complete; a crawl that was killed goes on from there. Returns a Counter:
    fetched, taken_over (from that file), status_N, failed_X, truncated_X, and what was skipped and
    why. ValueError or OSError if an argument is impossible, path exists, or nothing was fetched.
    """
    path, seeds = Path(path), list(dict.fromkeys(map(normalise, seeds)))
    limits = max_pages >= 1 and max_depth >= 0 and 0 <= delay_s <= connection.MAX_WAIT_S
    if not (seeds and limits and re.fullmatch("[ -~]*", contact or "")):
        raise ValueError(f"{len(seeds)} seeds, max_pages {max_pages}, max_depth {max_depth}, "
                         f"delay_s {delay_s}, contact {contact}: at least 1 seed, 1 page, depth 0; "
                         f"0 to {connection.MAX_WAIT_S} s; contact in ASCII")
    user_agent = f"{AGENT}/1.0" + (f" (+{contact})" if contact else "")
    info = warc.header_lines({
        "software": "longhand crawl.py",
        "format": "WARC File Format 1.0",
        "robots": "obey",
        "operator": contact,
        "http-header-user-agent": user_agent,
        "description": f"from {' '.join(seeds)}, {max_pages} pages at most",
    })
    with runs.locked(path.parent, f"crawl of {path.name}"), disk.naming(f"{path}.tmp"):
        if path.exists():
            raise FileExistsError(f"{path}: is there already; delete it to crawl again, "
                                  "or choose another folder with --run")
        with open(f"{path}.tmp", "a+b") as file:
            file.seek(0)
            job = Crawl(file, info, user_agent, delay_s)
            had = bool(job.offsets)
            counts = job.run(seeds, max_pages, max_depth, other_sites)
            if not any(name.startswith("status_") for name in counts):
                if not had:                 # else the next try goes on with what is there
                    os.unlink(file.name)
                raise ValueError(f"{' '.join(seeds)}: nothing could be fetched: {dict(counts)}")
            file.flush()
            os.fsync(file.fileno())
            disk.replace(file.name, path)
    return counts


# ------------------------------------------------------------------------------------- command line

def parse_args(argv=None):
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m web.crawl", description="Fetch web pages, politely, into a WARC file.")
    parser.add_argument("seeds", nargs="+", metavar="URL", help="addresses to begin at")
    parser.add_argument("--run", default="out/web", metavar="DIR",
                        help="run folder; pages go to DIR/crawl (default: %(default)s)")
    what = parser.add_argument_group("what is fetched").add_argument
    what("--pages", type=int, default=100, metavar="N",
         help="at most N addresses (default: %(default)s)")
    what("--depth", type=int, default=3, metavar="N",
         help="follow links N deep (default: %(default)s)")
    what("--other-sites", action="store_true", help="also follow links to hosts that no URL is on")
    how = parser.add_argument_group("how it is fetched").add_argument
    how("--delay", type=float, default=1.0, metavar="S",
        help="seconds between two visits to a host, or what its robots.txt says if that is more "
             "(default: %(default)s)")
    how("--contact", metavar="TEXT", help="your address, for the User-Agent (default: none)")
    return parser.parse_args(argv)


def main(argv=None):
    """Crawl, and print what was fetched and what was not."""
    args, start = parse_args(argv), time.perf_counter()
    host = host_and_port(normalise(args.seeds[0])).replace(":", "_")
    path = Path(args.run) / "crawl" / f"{host}.warc.gz"
    try:
        counts = crawl(args.seeds, path, args.pages, args.depth, args.delay, args.other_sites,
                       args.contact)
    except KeyboardInterrupt:
        report("interrupted", "the same command goes on from here")
        raise
    print(textwrap.fill(", ".join(f"{name} {n:,}" for name, n in counts.items()), 80))
    made = f"{path.stat().st_size / 1e6:.1f} MB, {time.perf_counter() - start:.0f} s"
    print(f"{'crawl':8} {counts['fetched']:,} addresses, {made}: {path}")


if __name__ == "__main__":
    command.run(main, error_status=2)
