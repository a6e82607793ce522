"""Report what is known of the embedded tritonserver, which no list of Python packages covers.

    python deploy/embedded/audit.py

It fails if the list next to it is not about the tritonserver that would be installed.
"""

import datetime
import sys
from collections import Counter
from pathlib import Path

import yaml

LIST = Path(__file__).with_name("known_vulnerabilities.yaml")
CONSTRAINTS = Path(__file__).resolve().parents[2] / "constraints.txt"


def main() -> int:
    known = yaml.safe_load(LIST.read_text(encoding="utf-8"))
    wheel = f"nvidia-pytriton=={known['nvidia-pytriton']}"
    if wheel not in CONSTRAINTS.read_text(encoding="utf-8").split():
        sys.stderr.write(f"{LIST.name} is about {wheel}, which constraints.txt does not pin.\n")
        return 1
    cves = {cve: facts for one in known["bulletins"] for cve, facts in one["cves"].items()}
    needs = Counter(facts["needs"] for facts in cves.values())
    worst = sorted(cve for cve, facts in cves.items() if facts["score"] >= 9)
    sys.stdout.write(
        f"tritonserver {known['tritonserver']}: {len(known['bulletins'])} bulletins, {len(cves)} "
        f"known vulnerabilities; 9 or more of 10: {', '.join(worst)}. They need "
        f"{', '.join(f'{what}: {count}' for what, count in needs.most_common())}. Why it is served "
        "all the same, on 127.0.0.1 only: SECURITY.md.\n"
    )
    age = (datetime.date.today() - known["complete-until"]).days
    sys.stderr.write(f"The list is complete until {known['complete-until']}, {age} days ago.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
