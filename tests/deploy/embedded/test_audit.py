"""What is known of the embedded server is about the one that is pinned."""

import yaml

from embedded import audit


def test_the_list_is_about_the_server_that_is_installed(capsys):
    known = yaml.safe_load(audit.LIST.read_text(encoding="utf-8"))
    cves = {cve for bulletin in known["bulletins"] for cve in bulletin["cves"]}
    assert audit.main() == 0
    said = capsys.readouterr()
    assert f"{len(known['bulletins'])} bulletins, {len(cves)} known vulnerabilities" in said.out
    assert "CVE-2026-47627" in said.out
    assert "complete until 2026-08-18" in said.err


def test_another_server_is_not_passed_over(tmp_path, monkeypatch, capsys):
    pins = tmp_path / "constraints.txt"
    pins.write_text("nvidia-pytriton==0.8.0\n")
    monkeypatch.setattr(audit, "CONSTRAINTS", pins)
    assert audit.main() == 1
    assert "is about nvidia-pytriton==0.7.0, which constraints.txt does not pin" in (
        capsys.readouterr().err
    )
