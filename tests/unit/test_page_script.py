"""The script of the page, as far as it needs no browser, in Node.js where that is installed.

Nothing here is needed for a build, so these tests are not collected elsewhere.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec

import carp_fast
from carp_fast.config.load import Settings, VirtualHost
from carp_fast.daemon.page import Captured, runs_of
from carp_fast.daemon.problems import ADDRESSES, BITS, WRONG_DIGEST

HTML = (Path(carp_fast.__file__).parent / "metrics" / "page.html").read_text()
NODE = shutil.which("node")
DEADLINE_S = 60.0


def run(code: str, **given: Any) -> Any:
    """The value that `code` returns, as the body of a function with these arguments."""
    (script,) = re.findall(r"<script>(.*)</script>", HTML, re.DOTALL)
    names, values = ", ".join(given), ", ".join(json.dumps(each) for each in given.values())
    whole = f"{script}\nconsole.log(JSON.stringify((({names}) => {{{code}}})({values})));"
    assert NODE is not None
    done = subprocess.run(
        [NODE, "-"], input=whole, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def body_of(hosts: list[VirtualHost | None], states: bytes, marks: bytes) -> list[int]:
    """The bytes of a map as the daemon sends them."""
    names, runs = runs_of(hosts)
    captured = Captured(3, 7, states, marks)
    head = {"tick": 3, "layout": 7, "interfaces": names, "runs": runs}
    return list(msgspec.json.encode(head) + b"\n" + captured.cells)


def virtual_host(interface: str, vhid: int) -> VirtualHost:
    return VirtualHost(interface, vhid, (), (), Settings(passphrase=b"secret"))


def decodes_the_map() -> None:
    hosts = [virtual_host("eth10", 2), virtual_host("eth10", 1), None, virtual_host("eth2", 9)]
    found = run(
        "const map = decodeMap(Uint8Array.from(body));"
        "return {...map, cells: [...map.cells], block: [...map.block], vhid: [...map.vhid]};",
        body=body_of(hosts, bytes((2, 1, 0, 0)), bytes((0, 4, 0, 1))),
    )
    assert (found["tick"], found["layout"]) == (3, 7)
    assert found["cells"] == [2, 1 | 4 << 2, 0, 1 << 2]
    assert found["block"] == [0, 0, -1, 1]
    assert found["vhid"] == [2, 1, 0, 9]
    assert [(each["name"], each["slots"]) for each in found["order"]] == [
        ("eth2", [3]),
        ("eth10", [1, 0]),
    ]


def colours_cells_by_state_demotion_and_problem() -> None:
    marks = {
        "": 0,
        "demoted": BITS["demoted"],
        "init": BITS["init"],
        "second_master": BITS["second_master"],
        "duplicate": BITS["duplicate_source"],
        "digest": WRONG_DIGEST,
        "addresses": ADDRESSES,
    }
    cells = [mark << 2 | state for mark in marks.values() for state in (0, 1, 2)]
    found = run("return cells.map(cell => COLOURS[colourOf(cell)]);", cells=cells)
    plain = ["init", "backup", "master"]
    assert found == [
        *plain,
        *("init", "backup-less", "master-less"),
        *plain,
        *["bad"] * 12,
    ]


def plans_maps_in_which_each_cell_is_found_again() -> None:
    sizes = [(1, 255), (16, 255), (256, 255), (256, 1), (1, 1), (300, 3), (5, 64)]
    found = run(
        """
        const wrong = [];
        const plans = [];
        for (const [blocks, most] of sizes) for (const width of [340, 900, 1400]) {
          const plan = planMap(width, blocks, most, 700);
          plans.push([blocks, most, width, plan]);
          const order = [];
          for (let at = 0, slot = 0; at < blocks; at++) {
            const slots = [];
            for (let each = 0; each < most; each++) slots.push(slot++);
            order.push({slots});
          }
          const map = {order};
          for (const at of [0, blocks - 1]) for (const each of [0, most - 1]) {
            const x = at % plan.across * (plan.wide + GAP) + each % plan.columns * plan.size;
            const y = Math.floor(at / plan.across) * (LABEL + plan.high + GAP) + LABEL
              + Math.floor(each / plan.columns) * plan.size;
            const slot = order[at].slots[each];
            for (const [dx, dy] of [[0, 0], [plan.size - 1, plan.size - 1]])
              if (cellAt(plan, map, x + dx, y + dy) !== slot) wrong.push([blocks, most, slot]);
          }
          for (const [x, y] of [[-1, 5], [5, -1], [5, 3], [1e6, 20], [5, 1e6]])
            if (cellAt(plan, map, x, y) !== -1) wrong.push([blocks, most, x, y]);
        }
        return {wrong, plans};
        """,
        sizes=sizes,
    )
    assert found["wrong"] == []
    for blocks, most, width, plan in found["plans"]:
        assert plan["across"] * (plan["wide"] + 8) - 8 <= width
        assert plan["columns"] * -(-most // plan["columns"]) >= most
        assert plan["size"] >= 3
        assert blocks > 1 or plan["across"] == 1


def shows_each_change_once() -> None:
    last = [{"vhid": vhid} for vhid in (1, 2, 3)]
    message = {"changes": 10, "last": last}
    found = run(
        "return [0, 8, 10, 12].map(seen => unseen(message, seen).map(each => each.vhid));",
        message=message,
    )
    assert found == [[3, 2, 1], [3, 2], [], []]


def tells_ages_in_two_units() -> None:
    seconds = [0, 59, 60, 3_600, 90_000]
    found = run("return seconds.map(each => age(1000, 1000 + each * 1000));", seconds=seconds)
    assert found == ["0s", "59s", "1m 0s", "1h 0m", "1d 1h"]


def needs_no_browser_to_be_read() -> None:
    assert run("return typeof document;") == "undefined"


if NODE is not None:
    test_the_map_is_decoded = decodes_the_map
    test_cells_have_the_colour_of_their_state_demotion_and_problem = (
        colours_cells_by_state_demotion_and_problem
    )
    test_each_cell_of_a_planned_map_is_found_again = plans_maps_in_which_each_cell_is_found_again
    test_each_change_is_shown_once = shows_each_change_once
    test_ages_have_two_units = tells_ages_in_two_units
    test_the_script_needs_no_browser_to_be_read = needs_no_browser_to_be_read
