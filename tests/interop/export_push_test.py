"""Uploads of an exported folder to a hub on this machine, by huggingface_hub as it is."""

import hashlib
import re
from pathlib import Path

import huggingface_hub
import model_hub
import pytest

from kronecker.interop import export, gpt2_folder

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub's own call
PUSH = "--push_to_hub=me/mine"
ADVICE = "give OWNER/NAME of a repository that you may write, and run `hf auth login` or set HF_TOKEN"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What push reads of an export: files by their names."""
    out = tmp_path / "hf"
    out.mkdir()
    for name in export.FILES:
        (out / name).write_text(f"{name} of an export\n" * 40)
    (out / "mine.txt").write_text("no part of the export")
    return out


def aim(monkeypatch: pytest.MonkeyPatch, hub: model_hub.Hub, token: str = model_hub.TOKEN, xet: bool = True) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.address)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", not xet)
    monkeypatch.setenv("HF_TOKEN", token)


@pytest.mark.parametrize("xet", [True, False])
def test_all_files_of_an_export_reach_a_new_private_repository(xet: bool, folder: Path, monkeypatch, tmp_path: Path):
    with model_hub.serving(tmp_path / "cas") as hub:
        aim(monkeypatch, hub, xet=xet)
        assert export.push(folder, "me/mine") == f"{hub.address}/me/mine"
    assert (hub.created["organization"], hub.created["name"], hub.created["visibility"]) == ("me", "mine", "private")
    files = {name: (folder / name).read_bytes() for name in export.FILES}
    weights = files.pop(gpt2_folder.WEIGHTS)
    assert hub.files == files
    assert hub.large == {gpt2_folder.WEIGHTS: hashlib.sha256(weights).hexdigest()}
    assert [*hub.objects.values()] == ([] if xet else [weights])


@pytest.mark.parametrize(
    ("fails", "kind", "reason"),
    [
        ({"repos/create": 403}, ValueError, f"HTTP 403; {ADVICE}"),
        ({"objects/batch": 413}, ConnectionError, "HTTP 413"),
        ({"store": 403}, ValueError, f"HTTP 403; {ADVICE}"),
        ({"store": 400}, ConnectionError, "HTTP 400"),
        ({"commit": 500}, ConnectionError, "HTTP 500"),
    ],
)
def test_an_upload_that_fails_is_one_line_and_the_folder_stays(
    fails: dict[str, int], kind: type[Exception], reason: str, folder: Path, monkeypatch, tmp_path: Path
):
    with model_hub.serving(tmp_path / "cas", fails) as hub, pytest.raises(kind) as raised:
        aim(monkeypatch, hub, xet=False)
        export.push(folder, "me/mine")
    later = "" if kind is ValueError else f"; later run `hf upload me/mine {folder}`"
    assert str(raised.value) == f"{PUSH}: {reason}; {folder} is complete{later}"


def test_a_wrong_token_a_hub_that_is_gone_and_a_bad_name_are_told(folder: Path, monkeypatch, tmp_path: Path):
    with model_hub.serving(tmp_path / "cas") as hub:
        aim(monkeypatch, hub, token="hf_other")
        with pytest.raises(ValueError, match=f"HTTP 401; {ADVICE}"):
            export.push(folder, "me/mine")
        with pytest.raises(ValueError, match=r"--push_to_hub=me/my model: .* write OWNER/NAME; .* is complete$"):
            export.push(folder, "me/my model")
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(ConnectionError, match=rf"{PUSH}: .*refused.*; {folder} is complete; later run"):
        export.push(folder, "me/mine")


@pytest.mark.parametrize("part", ["repos/create", "preupload", "objects/batch", "commit"])
@pytest.mark.parametrize(
    "answer", [b"<html>sign in</html>", b"", b"[]", b"null", b'{"url": 5, "files": 5, "objects": 5}']
)
def test_an_address_that_is_no_hub_is_told_in_one_line(
    part: str, answer: bytes, folder: Path, monkeypatch, tmp_path: Path
):
    with model_hub.serving(tmp_path / "cas", {part: answer}) as hub, pytest.raises(ValueError) as raised:
        aim(monkeypatch, hub, xet=False)
        export.push(folder, "me/mine")
    assert re.fullmatch(rf"{PUSH}: .*HF_ENDPOINT; {folder} is complete", str(raised.value))
