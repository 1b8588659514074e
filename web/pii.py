"""Personal data in texts: e-mail and IPv4 addresses, US social security and telephone numbers.

data.redact is the definition for addresses. `redact` here gives the same text in linear time; the
pattern of a whole e-mail address goes over long runs of letters once for each of them.

Sources: datatrove 0.10 (formatters/pii.py); with version="v1" datatrove 0.2, which made FineWeb v1
and saw e-mail addresses in lower case only.
"""

import ipaddress
import itertools
import re


ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]"
LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
OCTET = r"(?:25[0-5]|2[0-4][0-9]|[01]?[0-9][0-9]?)"
USER = rf"{ATOM}+(?:\.{ATOM}+)*"                            # the same backwards
DOMAIN = rf"(?:{LABEL}\.)+{LABEL}|\[(?:{OCTET}\.){{3}}(?:{OCTET}|[A-Za-z0-9-]*[A-Za-z0-9]:)\]"
IP = re.compile(rf"(?:{OCTET}\.){{3}}{OCTET}")
MAY_BE_IP = re.compile(r"[0-9]\.[0-9]{1,3}\.[0-9]")         # found six times as fast as an IP
# US social security numbers as they are given out, and North American telephone numbers.
SSN = re.compile(r"(?<![\d-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])")
PHONE = re.compile(r"(?<![\w.+-])(?:\+?1[ .-]?)?(?:\([2-9]\d\d\) ?|[2-9]\d\d[ .-])"
                   r"[2-9]\d\d[ .-]\d{4}(?![\w-])")

# What takes their places, in turn: addresses that are reserved or dead, numbers that are nobody's.
EMAILS = ("email@example.com", "firstname.lastname@example.org")
IPS = ("22.214.171.124", "126.96.36.199", "188.8.131.52", "184.108.40.206", "220.127.116.11",
       "18.104.22.168")
NOBODYS_SSN, NOBODYS_PHONE = "000-00-0000", "555-0100"


# The patterns of an e-mail address: of its first letter, its user, its domain.
EMAIL_PARTS = {}
for version, letters in (("0.10", "A-Za-z"), ("v1", "a-z")):
    parts = [part.replace("A-Za-z", letters) for part in (rf"\b{ATOM}", USER, DOMAIN)]
    EMAIL_PARTS[version] = list(map(re.compile, parts))


def is_public(address):
    """Whether an IPv4 address is somebody's. Octets with leading zeros are no address."""
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False


def redact_emails(text, version="0.10"):
    """Replaces e-mail addresses. Looks around each @, which takes linear time."""
    (begin, user, domain), turn = EMAIL_PARTS[version], itertools.cycle(EMAILS)
    out, done, before, at = [], 0, 0, text.find("@")
    while at >= 0:
        before_at = user.match(text[before:at][::-1])       # backwards from the @
        start = before_at and begin.search(text, at - before_at.end(), at)
        behind_at = start and domain.match(text, at + 1)
        if behind_at:
            out += text[done:start.start()], next(turn)
            done = behind_at.end()
        before = max(done, at + 1)
        at = text.find("@", before)
    return "".join(out) + text[done:]


def redact(text, kinds=("email", "ip"), version="0.10"):
    """data.redact in linear time; kinds may also hold "ssn" and "phone".

    Looks for IP addresses only in a text that holds something like 1.2.3. Most do not, which
    takes an eighth of the time.
    """
    if "email" in kinds:
        text = redact_emails(text, version)
    if "ip" in kinds and MAY_BE_IP.search(text):
        turn = itertools.cycle(IPS)
        text = IP.sub(lambda ip: next(turn) if is_public(ip[0]) else ip[0], text)
    if "ssn" in kinds:
        text = SSN.sub(NOBODYS_SSN, text)
    if "phone" in kinds:
        text = PHONE.sub(NOBODYS_PHONE, text)
    return text
