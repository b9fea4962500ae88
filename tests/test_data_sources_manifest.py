"""Tables of labels, captions and numbers beside pictures, in every form; and what a senseless one is told."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fromnoise.data import Columns, Folder, Source, Unreadable, open_source
from fromnoise.data.conditions import as_values, from_labels
from fromnoise.errors import WrongUse

NAMES = ("b/2.png", "a/1.png", "c.png", "a/10.png")  # not in order: a table need not be


def pictures(root: Path, names: tuple[str, ...] = NAMES) -> Path:
    for value, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            Image.new("L", (2, 2), value).save(file, "PNG")
    return root


def write(path: Path, content: object) -> Path:
    """Text as it is, anything else as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def said(source: Source, root: Path) -> dict[str, object]:
    """What the source says of each picture, by its path."""
    names = [Path(source.name(k)).relative_to(root).as_posix() for k in range(len(source))]
    labels = [None if source.labels is None else source.classes[source.labels[k]] for k in range(len(source))]
    captions = source.captions or [None] * len(source)
    values = source.values or [None] * len(source)
    return {name: whole for name, *whole in zip(names, labels, captions, values, strict=True)}


ROWS = [
    {"file": "b/2.png", "label": "dog", "caption": "a dog, asleep", "value": 0.5},
    {"file": "a/1.png", "label": "cat", "caption": 'a "cat"', "value": -1},
    {"file": "c.png", "label": "cat", "caption": "", "value": 2e-3},
    {"file": "a/10.png", "label": "élan", "caption": "two\nlines", "value": 7},
]
SAID = {row["file"]: [row["label"], row["caption"], (float(row["value"]),)] for row in ROWS}


def as_csv(delimiter: str) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(ROWS[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(ROWS)
    return text.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", as_csv(",")),
        ("t.csv", "\ufeff" + as_csv(";")),  # as spreadsheets save it
        ("t.tsv", as_csv("\t")),
        ("t.json", ROWS),
        ("t.json", {row["file"]: {k: v for k, v in row.items() if k != "file"} for row in ROWS}),
        ("t.jsonl", "\n".join(map(json.dumps, ROWS)) + "\n\n"),
    ],
)
def test_every_form_says_the_same(name: str, content: object, tmp_path: Path) -> None:
    root = pictures(tmp_path / "pictures")
    source = Folder(root, labels=write(tmp_path / name, content))
    assert said(source, root) == SAID
    assert source.classes == ("cat", "dog", "élan") and source.value_names == ("value",)
    assert [int(source.read(k)[0, 0, 0]) for k in range(4)] == [1, 3, 0, 2]  # sorted by path, labels with them
    assert source.remarks == ()


def test_edms_table_is_found_by_itself_and_wins_over_folders(tmp_path: Path) -> None:
    root = pictures(tmp_path)
    pairs = [["b/2.png", 10], ["a/1.png", 2], ["c.png", 2], ["a/10.png", 0]]
    write(root / "dataset.json", {"labels": pairs})
    source = Folder(root, classes=True)
    assert source.classes == ("0", "2", "10")  # by size, not by name
    assert [source.classes[label] for label in source.labels or ()] == ["2", "0", "10", "2"]
    assert Folder(root).labels is None
    write(root / "dataset.json", {"labels": [[name, [label, 0.5]] for name, label in pairs]})
    source = Folder(root, classes=True)
    assert source.labels is None and source.values == ((2, 0.5), (0, 0.5), (10, 0.5), (2, 0.5))
    write(root / "dataset.json", {"labels": None})
    with pytest.raises(WrongUse, match="has no labels"):  # and its folders are no classes
        Folder(root, classes=True)


def test_a_table_without_labels_leaves_the_folders_to_be_classes(tmp_path: Path) -> None:
    root = pictures(tmp_path, ("a/1.png", "b/2.png"))
    write(root / "metadata.csv", "file_name,text\na/1.png,one\nb/2.png,two\n")
    assert Folder(root, classes=True).classes == ("a", "b")
    write(root / "metadata.csv", "file_name,label\na/1.png,x\nb/2.png,x\n")
    assert Folder(root, classes=True).classes == ("x",)


def test_names_are_taken_from_the_folder_or_from_that_of_the_table(tmp_path: Path) -> None:
    root = pictures(tmp_path / "data" / "pictures")
    for place, start in (
        (tmp_path / "t.csv", "data/pictures/"),
        (tmp_path / "data" / "t.csv", "./pictures/"),
        (root / "a" / "t.csv", "../"),
        (root / "t.csv", ""),
        (tmp_path / "far" / "t.csv", ""),
        (tmp_path / "far" / "t.csv", f"{root}/"),
    ):
        write(place, "file,label\n" + "".join(f"{start}{name},{k}\n" for k, name in enumerate(NAMES)))
        source = Folder(root, labels=place)
        assert [source.classes[k] for k in source.labels or ()] == ["1", "3", "0", "2"], place
    write(
        root / "w.csv", "file,label\n" + "".join("{},{}\n".format(n.replace("/", "\\"), k) for k, n in enumerate(NAMES))
    )
    assert Folder(root, labels="w.csv").labels == (1, 3, 0, 2)  # found in the folder; backslashes understood


def test_the_table_decides_which_pictures_there_are(tmp_path: Path) -> None:
    root = pictures(tmp_path / "pictures")
    (root / "c.png").rename(root / "c.data")
    outside = pictures(tmp_path / "elsewhere", ("secret.png",)) / "secret.png"
    rows = ["file,label", "a/1.png,x", "gone.png,y", "c.data,x", "../elsewhere/secret.png,y", f"{outside},y"]
    table = write(tmp_path / "t.csv", "\n".join(rows[:-1]))
    source = Folder(root, labels=table)
    assert said(source, root).keys() >= {"a/1.png", "c.data", "gone.png"}
    outcomes = {}
    for index in range(len(source)):
        try:
            outcomes[Path(source.name(index)).name] = int(source.read(index)[0, 0, 0])
        except Unreadable as error:
            outcomes[Path(source.name(index)).name] = error.why
    assert outcomes["1.png"] == 1 and outcomes["c.data"] == 2  # content decides, not the name
    assert "no such file in the folder" in outcomes["gone.png"]
    assert "no such file in the folder" in outcomes["secret.png"]  # it is there, and never opened
    assert source.remarks == (f"left out, for they are not in {table}: a/10.png, b/2.png",)
    write(table, "\n".join(rows))
    with pytest.raises(WrongUse, match=r"secret.png twice"):
        Folder(root, labels=table)


def test_label_sets_are_one_column_of_values_for_every_label(tmp_path: Path) -> None:
    root = pictures(tmp_path)
    sets = {"b/2.png": ["dog", "out"], "a/1.png": ["cat"], "c.png": [], "a/10.png": ["out", "cat"]}
    forms = {
        "t.csv": "file,tags\n" + "".join(f"{name},{'; '.join(labels)}\n" for name, labels in sets.items()),
        "t.json": {name: {"tags": labels} for name, labels in sets.items()},
    }
    for name, content in forms.items():
        source = Folder(root, labels=write(root / name, content))
        assert source.labels is None and source.classes == () and source.value_names == ("cat", "dog", "out")
        assert source.values == ((1, 0, 0), (1, 0, 1), (0, 1, 1), (0, 0, 0))


def test_columns_may_have_any_name(tmp_path: Path) -> None:
    root = pictures(tmp_path, ("1.png", "2.png"))
    table = write(root / "t.csv", "what,ID,colour,age,weight\ncat,1.png,red,3,1.5\ndog,2.png,blue,4,2.5\n")
    with pytest.raises(WrongUse, match=r"no column of file names: .* what, ID, colour, age, weight; call it file"):
        Folder(root, labels=table)
    columns = Columns(picture="ID", label="what", caption="colour", values=("weight", "age"))
    source = Folder(root, labels=table, columns=columns)
    assert source.classes == ("cat", "dog") and source.captions == ("red", "blue")
    assert source.values == ((1.5, 3), (2.5, 4)) and source.value_names == ("weight", "age")
    with pytest.raises(WrongUse, match="no column colours; did you mean 'colour'"):
        Folder(root, labels=table, columns=Columns(picture="ID", caption="colours"))
    with pytest.raises(WrongUse, match="no column of labels or captions"):
        Folder(root, labels=table, columns=Columns(picture="ID"))


def test_whole_numbers_are_one_label_however_they_are_written() -> None:
    name = "picture {}".format
    assert from_labels([3, "3", 3.0, True], name).labels == (1, 1, 1, 0)
    assert from_labels([10, 9, -1], name).classes == ("-1", "9", "10")
    assert from_labels(["b", "a", "10"], name).classes == ("10", "a", "b")
    named = from_labels([2, 0], name, names=("zero", "one", "two"))
    assert named.labels == (2, 0) and named.classes == ("zero", "one", "two")
    for wrong in (2.5, None, "", {"a": 1}, [None], float("nan")):
        with pytest.raises(WrongUse, match="picture 1 has"):
            from_labels(["fine", wrong], name)
    for wrong in (-1, 3, "x", 10**20):
        with pytest.raises(WrongUse, match="classes 0 to 2"):
            from_labels([0, wrong], name, names=("zero", "one", "two"))
    for wrong in ("warm", None, float("inf"), "nan", [1, 2]):
        with pytest.raises(WrongUse, match="picture 1 has"):
            as_values([1, wrong], name)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("t.csv", "", "no column of file names|no rows"),
        ("t.csv", "file,label\n", "has no rows"),
        ("t.csv", "1.png,cat\n2.png,dog\n", "no column of file names"),
        ("t.csv", "file,label\n1.png,cat,black\n", "row 2 has 3 cells, and the header line 2"),
        ("t.csv", "file,file\n1.png,cat\n", "two columns have the same name"),
        ("t.csv", 'file,label\n1.png,"cat\n', "cannot be read"),
        ("t.csv", "file,label\n1.png,\n", "1.png has no label"),
        ("t.csv", "file,label\n1.png\n", "1.png has no label"),
        ("t.csv", "file,label\n,cat\n", "row 1 names no file"),
        ("t.csv", "file,label\nx.png,cat\n", "none of the 1 rows .* the first row says x.png, .* there is 1.png"),
        ("t.csv", "file,label\n1.png,a\n./1.png,b\n", "names 1.png twice"),
        ("t.csv", "file,value\n1.png,warm\n", "the value 'warm', which is no number"),
        ("t.csv", f"file,label\n1.png,{'x' * 200_000}\n", "cannot be read: field larger"),
        ("t.json", "[", "cannot be read: Expecting value"),
        ("t.json", "[" * 100_000, "nested too deep"),
        ("t.json", "3", "holds one int"),
        ("t.json", ["1.png"], "entry 1 is no object"),
        ("t.json", {"labels": [["1.png"]]}, "EDM"),
        ("t.json", {"labels": [["1.png", {}]]}, "1.png has the label {}"),
        ("t.json", {"labels": None}, "has no labels"),
        ("t.json", [{"file": 3, "label": 1}], "row 1 names no file"),
        ("t.json", '[{"file": "1.png", "value": NaN}]', "not finite"),
        ("t.json", '[{"file": "1.png", "label": ' + "9" * 5000 + "}]", "cannot be read"),
        ("t.jsonl", '{"file": "1.png", "label": 1}\n{', "cannot be read"),
        ("t.xlsx", "PK", "no table that is known here"),
        ("t\n.csv", "file\n1.png\n", r"t\\n.csv' has no column of labels"),
    ],
)
def test_a_senseless_table_is_told_in_one_line(name: str, content: object, told: str, tmp_path: Path) -> None:
    root = pictures(tmp_path / "pictures", ("1.png",))
    with pytest.raises(WrongUse, match=told) as caught:
        open_source(root, labels=write(tmp_path / name, content))
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500


def test_bytes_that_are_no_text_and_tables_that_are_not_there(tmp_path: Path) -> None:
    root = pictures(tmp_path, ("1.png",))
    (root / "t.csv").write_bytes(b"file,label\n1.png,\xff\n")
    with pytest.raises(WrongUse, match="not UTF-8"):
        Folder(root, labels="t.csv")
    with pytest.raises(WrongUse, match=r"there is no table t2\.csv, neither here nor in"):
        Folder(root, labels="t2.csv")


def test_identity_and_fingerprint_follow_the_files_and_what_is_said(tmp_path: Path) -> None:
    root = pictures(tmp_path / "one")
    other = pictures(tmp_path / "two")
    source, same = Folder(root), Folder(root)
    assert source.fingerprint == same.fingerprint and len(source.fingerprint) == 32
    identities = [source.identity(k) for k in range(4)]
    assert len({*identities, *(Folder(other).identity(k) for k in range(4))}) == 8  # same bytes, yet other files
    table = write(tmp_path / "t.csv", "file,label\n" + "".join(f"{name},x\n" for name in NAMES))
    labelled = Folder(root, labels=table)
    assert [labelled.identity(k) for k in range(4)] == identities and labelled.fingerprint != source.fingerprint
    with (root / "c.png").open("wb") as file:
        Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4)).save(file, "PNG")
    changed = Folder(root)
    seen = [changed.identity(k) for k in range(4)]
    assert seen[:3] == identities[:3] and seen[3] != identities[3]
    assert changed.fingerprint != source.fingerprint
    (root / "c.png").unlink()
    assert source.identity(3) not in (identities[3], seen[3])
