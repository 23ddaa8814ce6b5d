"""Stand in for `systemctl`: keeps a few units in a folder and changes them as it is told."""

from __future__ import annotations

import json
import sys
from pathlib import Path

folder, arguments = Path(sys.argv[1]), sys.argv[2:]
with open(folder / "calls", "a") as calls:
    calls.write("\0".join(arguments) + "\n")
if (folder / "no-systemd").exists():
    sys.exit(
        "System has not been booted with systemd as init system (PID 1). Can't operate.\n"
        "Failed to connect to bus: Host is down"
    )
units_file = folder / "units.json"
units = json.loads(units_file.read_text())
verb, *names = [each for each in arguments if not each.startswith("-")]
if verb == "show":
    unit = units.get(
        names[0], {"LoadState": "not-found", "ActiveState": "inactive", "UnitFileState": ""}
    )
    print("\n".join(f"{key}={value}" for key, value in unit.items()))
    sys.exit(0)
if verb == "daemon-reload":
    for unit in units.values():
        unit["NeedDaemonReload"] = "no"
elif names[0] not in units and verb != "mask":
    sys.exit(f"Failed to {verb} {names[0]}.service: Unit {names[0]}.service not found.")
else:
    unit = units.setdefault(names[0], {"ActiveState": "inactive", "UnitFileState": ""})
    if unit.get("fails"):
        sys.exit(f"Job for {names[0]}.service failed.")
    unit.update(
        {
            "start": {"ActiveState": "active"},
            "stop": {"ActiveState": "inactive"},
            "restart": {"ActiveState": "active"},
            "reload": {},
            "enable": {"UnitFileState": "enabled"},
            "disable": {"UnitFileState": "disabled"},
            "mask": {"LoadState": "masked", "UnitFileState": "masked"},
            "unmask": {"LoadState": "loaded", "UnitFileState": "disabled"},
        }[verb]
    )
units_file.write_text(json.dumps(units))
