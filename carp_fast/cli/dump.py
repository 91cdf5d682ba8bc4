"""The command `dump`: its options and errors.

Must not know how advertisements are heard, read, judged or shown (capture/dump.py).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from carp_fast.cli.tables import Column, cut_time
from carp_fast.cli.terminal import Failure, Stream, failure, print_text, report

if TYPE_CHECKING:
    from carp_fast.config.model import Configuration

TIME_OF_DAY = len("00:00:00.000000Z")
# Columns of the fields of capture.dump.CELLS.
COLUMNS = (
    Column("time", 4, TIME_OF_DAY, cut_time),
    Column("interface", 2),
    Column("source > destination"),
    Column("family", 5),
    Column("vhid", 1),
    Column("advbase/advskew", 3),
    Column("counter", 6),
    Column("verdict", 0, len("bad_auth")),
)


def _warn_of_unknown(configuration: Configuration | None) -> None:
    hosts = configuration.virtual_hosts if configuration else ()
    unknown = sum(not host.settings.passphrase for host in hosts)
    if unknown:
        report(
            f"warning: digests of {unknown:,} virtual hosts are not verified: their passphrases"
            " need a systemd credential, and $CREDENTIALS_DIRECTORY is not set"
        )


@click.command()
@click.option("-i", "--interface", metavar="IF", help="Listen on this interface.  [default: all]")
@click.option(
    "-r",
    "--read",
    "recording",
    type=click.Path(allow_dash=True, path_type=Path),
    metavar="PCAP",
    help="Read a capture file instead; - is standard input.",
)
@click.option(
    "-c",
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Verify digests with this configuration and explain wrong ones.",
)
@click.option("--count", type=click.IntRange(1), metavar="N", help="Stop after N advertisements.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
def dump(
    *,
    interface: str | None,
    recording: Path | None,
    config: Path | None,
    count: int | None,
    as_json: bool,
) -> None:
    """Prints advertisements, decoded and judged. One per line, until Ctrl-C.

    Each line has time, interface, source > destination, family, vhid, advbase/advskew, demotion,
    counter and verdict. In JSON the counter is a string of 16 hex digits, since many JSON readers
    cannot represent 64-bit numbers, and "why" is present only where there is an explanation.

    Without -c, "ok" means well formed. With -c, the digest is valid, too; the interfaces in the
    configuration are ignored for a capture file, and if FILE does not name the interface. Verdicts
    that depend on earlier advertisements (loop, replay) are not given. A digest is not verified if
    its passphrase is a systemd credential, which only the service has.
    """
    if interface and recording:
        raise click.UsageError("-i cannot be combined with -r: a capture file has no interface")

    from carp_fast.capture.dump import STDIN, Dump, show
    from carp_fast.capture.listen import ListenError
    from carp_fast.capture.pcap import PcapError
    from carp_fast.config.load import ConfigurationError, load

    if recording == STDIN and sys.stdin.isatty():
        raise click.UsageError("-r -: standard input is a terminal")
    try:
        configuration = load(config, without_credentials=True) if config else None
        _warn_of_unknown(configuration)
        with Dump(
            interface=interface, recording=recording, configuration=configuration
        ) as advertisements:
            stream = Stream(COLUMNS)
            show(
                print_text,
                report,
                advertisements,
                line=stream.line,
                flush=recording in (None, STDIN),
                count=count,
                as_json=as_json,
            )
            stream.name_left_out()
    except ConfigurationError as error:
        raise Failure(*str(error).splitlines()) from error
    except (ListenError, PcapError) as error:
        raise failure(error) from error
    except BrokenPipeError:
        raise
    except OSError as error:
        where = error.filename or recording or "listening"
        raise failure(f"{where}: {error.strerror}") from error
