"""Gates as JUnit XML: one test case per gate and run, so that any CI shows them."""

import re
from collections.abc import Sequence
from xml.etree import ElementTree

from homotopy_cli.report.gates import GateResult

# XML 1.0 has no way to write these, escaped or not.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_xml(gates: Sequence[GateResult], *, suite: str = "homotopy") -> str:
    """A complete document. A gate that fired is a failure, one that could not be decided an error.

    Args:
        gates: What `evaluate` returned, in order.
        suite: Name of the suite: the log or logs.
    """
    fired = sum(gate.fired for gate in gates)
    undecided = sum(not gate.evaluable for gate in gates)
    counts = {
        "name": _clean(suite),
        "tests": str(len(gates)),
        "failures": str(fired),
        "errors": str(undecided),
        "skipped": "0",
        "time": "0",
    }
    root = ElementTree.Element("testsuites")
    element = ElementTree.SubElement(root, "testsuite", counts)
    for gate in gates:
        case = ElementTree.SubElement(
            element,
            "testcase",
            {"classname": "homotopy.gates", "name": _clean(_name(gate)), "time": "0"},
        )
        if gate.failed:
            kind = "failure" if gate.evaluable else "error"
            said = _clean(f"{gate.run}: {gate.message}" if gate.run else gate.message)
            fault = ElementTree.SubElement(
                case, kind, {"message": said, "type": gate.outcome.replace(" ", "_")}
            )
            fault.text = said
    ElementTree.indent(root)
    body = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{body}\n'


def _name(gate: GateResult) -> str:
    return f"{gate.expression} [{gate.run}]" if gate.run else gate.expression


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)
