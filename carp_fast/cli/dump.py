"""The command `dump`: its options, and what it refuses.

Must not know how advertisements are heard, read, judged or shown (capture/dump.py).
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from carp_fast.cli.terminal import Failure, failure, print_text


@click.command()
@click.option("-i", "--interface", metavar="IF", help="Listens here.  [default: everywhere]")
@click.option(
    "-r",
    "--read",
    "recording",
    type=click.Path(allow_dash=True, path_type=Path),
    metavar="PCAP",
    help="Reads a recording instead; - is standard input.",
)
@click.option(
    "-c",
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A configuration: says whether digests are right, and if not, why.",
)
@click.option("--count", type=click.IntRange(1), metavar="N", help="Ends after so many.")
@click.option("--json", "as_json", is_flag=True, help="A JSON object a line, nothing else.")
def dump(
    *,
    interface: str | None,
    recording: Path | None,
    config: Path | None,
    count: int | None,
    as_json: bool,
) -> None:
    """Prints advertisements, decoded and judged, a line each, until Ctrl-C.

    A line: time, interface, source > destination, family, vhid, advbase/advskew, demotion,
    counter, verdict. In JSON the counter is a string of 16 hex digits, for many readers of
    JSON cannot hold 64 bits in a number, and "why" is there only where there is something to
    say.

    Without -c, "ok" is what is well formed. With it the digest is right as well; interfaces
    of the configuration are ignored for a recording and where FILE lacks the interface. What
    depends on what was heard before (loop, replay) is not judged.
    """
    if interface and recording:
        raise click.UsageError("either -i or -r: a recording has no interface")

    from carp_fast.capture.dump import STDIN, Dump, show
    from carp_fast.capture.listen import ListenError
    from carp_fast.capture.pcap import PcapError
    from carp_fast.config.load import ConfigurationError, load

    if recording == STDIN and sys.stdin.isatty():
        raise click.UsageError("-r -: standard input is a terminal")
    try:
        configuration = load(config) if config else None
        with Dump(
            interface=interface, recording=recording, configuration=configuration
        ) as advertisements:
            show(
                print_text,
                lambda line: click.echo(line, err=True),
                advertisements,
                flush=recording in (None, STDIN),
                count=count,
                as_json=as_json,
            )
    except ConfigurationError as error:
        raise Failure(*str(error).splitlines()) from error
    except (ListenError, PcapError) as error:
        raise failure(error) from error
    except BrokenPipeError:
        raise
    except OSError as error:
        where = error.filename or recording or "listening"
        raise failure(f"{where}: {error.strerror}") from error
