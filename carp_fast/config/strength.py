"""How many guesses a passphrase withstands: an estimate from its length, characters and words.

Who captures one advertisement can try passphrases at home, as fast as a computer can. The estimate
knows short texts, common words and patterns. It has no dictionary, so that it may overlook a weak
passphrase, but does not call a strong one weak. Must not know files or where a passphrase is from,
and keeps no copy of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

# HMAC-SHA1 on the eight cores of a laptop without its graphics processor: four compressions a
# guess, eight guesses at once in a vector register.
GUESSES_PER_S = 100_000_000
WEAK_S = 3600

# What an attacker's lists have: common words, ways to write a word (capitals, digits in place of
# letters), patterns, years.
WORDS_TRIED, SPELLINGS, PATTERNS_TRIED, YEARS = 10_000, 30, 1_000, 200
SHORTEST_PATTERN = 3
KINDS = {"lower": 26, "upper": 26, "digit": 10, "symbol": 33, "other": 128}
SHORT_NUMBER = 4  # digits that may follow a word
ROWS = (b"abcdefghijklmnopqrstuvwxyz", b"01234567890", b"qwertyuiop", b"asdfghjkl", b"zxcvbnm")
_NEXT = frozenset(pair for row in ROWS for pair in pairwise(row))
_SPELT = bytes.maketrans(b"@4310!|l5$7+8", b"aaeioiiisstib")

WORDS = """
access account admin administrator alpha amanda amsterdam andrea andrew angel anthony apple april
archive ashley august austin autumn backup badger balance balancer banana bandit baseball
basketball batman battery berlin beta biscuit black blank blue border boston bridge buster
butterfly camera carp carpfast cassandra center central change changeme charlie cheese chelsea
chicago chicken chocolate christmas cisco cloud cluster coffee company computer control cookie
corporate correct country daemon daniel database datacenter dave debian december default demo
development diamond dragon eagle earth eight elephant enter example exchange extreme failover
falcon family february firewall five flower football four freebsd freedom friday friend frontend
gateway george ginger global gold google green guest guitar hammer hannah happy harley heaven
hello hockey home horse host hunter iloveyou internal internet jackson january jasmine jennifer
jessica jordan joshua july june juniper justin keepalive keepalived killer kitten lemon letmein
linux load loadbalancer local login london lovely machine maggie magic manager march marina martin
master matrix matthew maverick mercedes merlin michael michelle midnight mobile monday money
monkey morgan mother mountain mustang mysecret netbsd network nicholas nine nobody node november
october office online openbsd operator opnsense oracle orange panther paris pass passphrase
passw0rd password patrick peanut pepper pfsense phoenix pizza planet please police porsche primary
princess private production protect public purple rabbit rainbow ranger redhat redundancy
redundant remote replica richard robert root router samantha saturday school scooter secondary
secret secure security september server service seven shadow shared silver simple site slave
soccer sparky spider spring staging standby staple starwars static steelers stefan stella storage
summer sunday sunshine super superman support switch swordfish system taylor temp temporary test
tester testing thomas three thunder thursday tiger tomcat trust trustno1 tuesday turtle ubuntu
ucarp unix user vienna virtual vlan vmware vrrp warrior wednesday welcome whatever william windows
winner winter wizard yamaha yankees yellow zurich
"""


def _spelt(text: bytearray) -> None:
    """Undoes digits and signs in place of letters, in place."""
    for at, byte in enumerate(text):
        text[at] = _SPELT[byte]


def _as_spelt(word: str) -> bytes:
    text = bytearray(word.encode())
    _spelt(text)
    return bytes(text)


_WORDS: dict[int, list[bytes]] = {}  # by their first byte
for _word in sorted(set(map(_as_spelt, WORDS.split()))):
    _WORDS.setdefault(_word[0], []).append(_word)


def guesses(passphrase: bytes | memoryview) -> float:
    """The number of guesses in which one who tries the likeliest first finds a passphrase."""
    plain = bytearray(passphrase)
    for at, byte in enumerate(plain):
        plain[at] = byte + 32 if 65 <= byte <= 90 else byte
    spelt = bytearray(plain)
    _spelt(spelt)
    try:
        return _fewest(passphrase, plain, spelt)
    finally:
        for copy in (plain, spelt):
            copy[:] = bytes(len(copy))


def seconds(passphrase: bytes | memoryview) -> float:
    """How long a laptop tries until it has found a passphrase."""
    return guesses(passphrase) / GUESSES_PER_S


def in_words(duration_s: float) -> str:
    """A duration below WEAK_S: "less than a second", "about 40 s", "about 35 minutes"."""
    if duration_s < 1:
        return "less than a second"
    return (
        f"about {duration_s:.0f} s" if duration_s < 60 else f"about {duration_s / 60:.0f} minutes"
    )


def _fewest(written: bytes | memoryview, plain: bytearray, spelt: bytearray) -> float:
    """Guesses for the best way to cut a text into words, patterns and single characters.

    `plain`: in lower case; `spelt`: with letters in place of digits, too.
    """
    length, alphabet = len(plain), _alphabet(written)
    fewest = [1.0, *[float("inf")] * length]
    for begin in range(length):
        so_far = fewest[begin]
        fewest[begin + 1] = min(fewest[begin + 1], so_far * alphabet)
        for end, tried in _parts(written, plain, spelt, begin):
            fewest[end] = min(fewest[end], so_far * tried)
    # A shorter text that is repeated: "xy7xy7xy7".
    for period in range(1, length // 2 + 1):
        if all(plain[at] == plain[at - period] for at in range(period, length)):
            return min(fewest[length], fewest[period] * length)
    return fewest[length]


def _parts(
    written: bytes | memoryview, plain: bytearray, spelt: bytearray, begin: int
) -> Iterator[tuple[int, float]]:
    """(end, guesses) of the words, patterns and numbers that begin at `begin`."""
    length = len(plain)
    for word in _WORDS.get(spelt[begin], ()):
        if spelt.startswith(word, begin):
            end = begin + len(word)
            as_is = all(97 <= written[at] <= 122 for at in range(begin, end))
            yield end, WORDS_TRIED * (1 if as_is else SPELLINGS)
    for follows in (_same, _next, _last):
        end = begin + 1
        while end < length and follows(plain[end - 1], plain[end]):
            end += 1
            if end - begin >= SHORTEST_PATTERN:
                yield end, PATTERNS_TRIED
    digits = 0
    while begin + digits < length and 48 <= plain[begin + digits] <= 57:
        digits += 1
    if digits >= 4 and plain.startswith((b"19", b"20"), begin):
        yield begin + 4, YEARS
    if digits == length - begin <= SHORT_NUMBER:
        yield length, 10**digits


def _same(byte: int, after: int) -> bool:
    return byte == after


def _next(byte: int, after: int) -> bool:
    """Whether a character follows another one in the alphabet or on the keyboard."""
    return (byte, after) in _NEXT


def _last(byte: int, after: int) -> bool:
    return (after, byte) in _NEXT


def _alphabet(written: bytes | memoryview) -> int:
    """How many characters there are of the kinds that a text has."""
    return sum(KINDS[kind] for kind in set(map(_kind, written)))


def _kind(byte: int) -> str:
    if byte >= 128:
        return "other"
    if 97 <= byte <= 122:
        return "lower"
    if 65 <= byte <= 90:
        return "upper"
    return "digit" if 48 <= byte <= 57 else "symbol"
