import subprocess
import sys

CHECK = """
import socket, sys, threading

def refuse(*args, **kwargs):
    raise AssertionError("a connection was opened")

socket.socket.connect = refuse
socket.getaddrinfo = refuse
from strop.engines import quiet_telemetry

quiet_telemetry()
quiet_telemetry()
import openvino
from openvino.tools.ovc import telemetry_utils

assert telemetry_utils.tm.__name__ == "openvino.tools.ovc.telemetry_stub"
if len(sys.argv) > 1:
    import nncf.telemetry

    assert type(nncf.telemetry.telemetry).__name__ == "MagicMock"
loaded = [name for name, module in sys.modules.items() if "openvino_telemetry" in name and module]
assert not loaded, loaded
assert threading.active_count() == 1, threading.enumerate()
"""


def run(code: str, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr


def test_openvino_and_nncf_fall_back_to_stubs() -> None:
    run(CHECK, "nncf")


def test_it_works_after_telemetry_was_loaded() -> None:
    run(
        "import openvino_telemetry.main, strop.engines as e, sys; e.quiet_telemetry();"
        "import openvino.tools.ovc.telemetry_utils as t; assert 'stub' in t.tm.__name__;"
        "assert not [n for n, m in sys.modules.items() if n.startswith('openvino_telemetry') and m]"
    )


def test_the_engines_call_it() -> None:
    run(
        "import sys; from strop.engines.openvino import _openvino; _openvino();"
        "assert sys.modules['openvino_telemetry'] is None"
    )
