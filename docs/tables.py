"""Fill the tables of README.md and docs/ from results/, and those of config keys from the schema.

python -m docs.tables            # write them
python -m docs.tables --check    # only tell which are stale, with exit code 1

A table stands between `<!-- table: NAME -->` and `<!-- /table -->`; NAME is a key of `TABLES`.
"""

from __future__ import annotations

import argparse
import csv
import json
import pathlib
import re
import statistics
import sys
from collections.abc import Callable
from typing import Any

from docs.config_keys import config_keys
from vpvae_jax.codebooks.usage import cvu_ceiling
from vpvae_jax.reporting.tables import markdown, mean_and_deviation, with_equal_use

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
_TABLE = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- /table -->)", flags=re.DOTALL)

METHODS = ("vp", "fsp", "fsq", "vq", "simvq", "tokenbridge", "none")
Row = dict[str, Any]


def main() -> None:
    """Write the tables, or check them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where a table is stale")
    is_check = parser.parse_args().check
    stale = [path for path in documents() if filled(path.read_text()) != path.read_text()]
    for path in stale:
        print(("stale: " if is_check else "written: ") + str(path.relative_to(ROOT)))
        if not is_check:
            path.write_text(filled(path.read_text()))
    sys.exit(1 if is_check and stale else 0)


def documents() -> list[pathlib.Path]:
    """README.md and the pages."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def filled(text: str) -> str:
    """A document with its tables made from results/."""

    def table(match: re.Match[str]) -> str:
        start, name, end = match.groups()
        if name not in TABLES:
            raise KeyError(f"table {name}: expected one of {', '.join(TABLES)}")
        return start + TABLES[name]() + end

    return _TABLE.sub(table, text)


def read_csv(path: str) -> list[Row]:
    """Rows of a CSV file below results/, numbers as numbers and empty cells as None."""
    with (RESULTS / path).open(newline="") as file:
        return [{key: _value(cell) for key, cell in row.items()} for row in csv.DictReader(file)]


def read_json(path: str) -> Row:
    """A JSON file below results/."""
    return json.loads((RESULTS / path).read_text())


def read_lines(path: str) -> list[Row]:
    """Lines of a JSON-lines file below results/."""
    return [json.loads(line) for line in (RESULTS / path).read_text().splitlines()]


def _value(cell: str) -> Any:
    if not cell:
        return None
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            pass
    return cell


def _runs(runs: list[Row], **wanted: Any) -> list[Row]:
    return [row for row in runs if all(row[key] == value for key, value in wanted.items())]


def _mean(runs: list[Row], key: str) -> float:
    return statistics.mean(row[key] for row in runs)


def _comparison(name: str, part: int) -> str:
    """A table that the comparison wrote: 0 for the methods, 1 for the ablations."""
    return (RESULTS / name / "table.md").read_text().split("\n\n")[part].strip("\n") + "\n"


def _readme() -> str:
    runs = read_csv("photos/comparison/runs.csv")
    head = ["method"]
    for size in (256, 1024):
        head += [f"K = {size}: PSNR dB", "quantization loss dB", "CVU"]
    rows = []
    for method in METHODS:
        cells = [method]
        for size in (256, 1024):
            group = _runs(runs, codebook_size=size, method=method)
            loss = [row["test_psnr_db_continuous"] - row["test_psnr_db"] for row in group]
            cells += [mean_and_deviation((row["test_psnr_db"] for row in group), 2), f"{statistics.mean(loss):.2f}"]
            cells.append(f"{_mean(group, 'test_cvu'):.3f}")
        rows.append(cells)
    return markdown(head, rows)


def _cvu(scores: Row) -> list[str]:
    """CVU beside what equal use of all codes would reach, and the number of tokens."""
    ceiling = cvu_ceiling(scores["codebook_size"], scores["num_tokens"])
    return [with_equal_use(f"{scores['cvu']:.3f}", ceiling), f"{scores['num_tokens']:,}"]


def _photos_demo() -> str:
    head = ["photographs", "PSNR, 256 codes", "PSNR, continuous latents", "SSIM", "CVU", "tokens"]
    test, validation = (read_json(f"photos/demo/photos-{split}.json") for split in ("test", "validation"))
    cat = next(example for example in test["examples"] if example["name"].startswith("chelsea"))
    rows = []
    for title, scores in (
        ("test: never seen (the cat, the cameraman)", test),
        ("of these the cat", cat),
        ("validation: unseen regions of training photographs", validation),
    ):
        row = [title, f"{scores['psnr_db']:.2f} dB", f"{scores['psnr_db_continuous']:.2f} dB", f"{scores['ssim']:.3f}"]
        if "cvu" in scores:
            row += _cvu(scores)
        else:
            row += ["", ""]
        rows.append(row)
    return markdown(head, rows)


def _photos_steps() -> str:
    """VP against no perturbation, by length of training."""
    main_runs, earlier, longer = (
        read_csv(f"photos/{name}/runs.csv") for name in ("comparison", "comparison_1200_steps", "long")
    )
    trials = [row for row in read_csv("photos/trials.csv") if row["quantizer"] == "none" and row["num_steps"] == 3600]
    demo = {
        f"{split}_{key}": value
        for split in ("validation", "test")
        for key, value in read_json(f"photos/demo/photos-{split}.json").items()
    }
    head = ["K", "steps", "runs of each", "none", "VP", "VP ahead by", "on test"]
    rows = []
    for size, steps, runs in (
        (64, 1600, main_runs),
        (256, 1200, earlier),
        (256, 1600, main_runs),
        (256, 3600, None),
        (1024, 1200, earlier),
        (1024, 1600, main_runs),
        (1024, 2400, longer),
    ):
        if runs is None:
            none, vp = trials, [demo]
        else:
            none, vp = (_runs(runs, codebook_size=size, method=method) for method in ("none", "vp"))
        means = [
            f"{_mean(group, 'validation_psnr_db'):.2f} ({_mean(group, 'validation_psnr_db_continuous'):.2f})"
            for group in (none, vp)
        ]
        leads = [_mean(vp, f"{split}_psnr_db") - _mean(none, f"{split}_psnr_db") for split in ("validation", "test")]
        rows.append(
            [
                str(size),
                f"{steps:,}",
                f"{len(none)}, {len(vp)}",
                *means,
                *(f"{lead:.2f}".replace("-0.00", "0.00") for lead in leads),
            ]
        )
    return markdown(head, rows)


def _photos_refits() -> str:
    refits = [row for row in read_csv("photos/comparison/refits.csv") if row["codebook_size"] == 256]
    sizes = sorted({row["num_codes"] for row in refits})
    rows = [
        [
            method,
            *(f"{_mean(_runs(refits, method=method, num_codes=size), 'validation_psnr_db'):.2f}" for size in sizes),
        ]
        for method in ("none", "vp")
    ]
    return markdown(["codes", *(f"{size:,}" for size in sizes)], rows)


def _rehearsal() -> str:
    rows = read_csv("rehearsal/table.csv")
    evaluation, metric, value = (
        next(name for name in names if name in rows[0])
        for names in (("evaluation", "dataset"), ("metric", "figure"), ("ours", "value"))
    )
    table = []
    titles = {"validation": "validation: unseen regions of the photographs", "test": "other photographs"}
    for split, title in titles.items():
        for method in ("vp", "fsp", "fsq"):
            scores = {
                row[metric]: row[value] for row in rows if row["method"] == method and row[evaluation].endswith(split)
            }
            cells = [f"{scores['psnr_db']:.2f}", *(f"{scores[key]:.3f}" for key in ("ssim", "lpips", "cvu"))]
            table.append([method, title, *cells])
    return markdown(["method", "", "PSNR dB", "SSIM", "LPIPS", "CVU"], table)


def _speech_runs(directory: str) -> str:
    head = ["", "", "STOI", "continuous", "PESQ", "SI-SDR", "CVU", "tokens", "codes used"]
    rows = []
    for method, title in (("vp", "VP-VAE"), ("fsp", "FSP")):
        for split in ("test", "validation"):
            scores = read_json(f"speech/{directory}/{method}-{split}.json")
            rows.append(
                [
                    title,
                    f"{split}: {scores['num_examples']} prompts",
                    f"{scores['stoi']:.3f}",
                    f"{scores['stoi_continuous']:.3f}",
                    f"{scores['pesq_wb']:.2f}",
                    f"{scores['si_sdr_db']:.1f} dB",
                    *_cvu(scores),
                    f"{scores['num_codes_used']} of {scores['codebook_size']}",
                ]
            )
    return markdown(head, rows)


def _short(number: float) -> str:
    return f"{float(f'{number:.4g}'):,.0f}"


def _perturb() -> str:
    lines = [line for line in read_lines("benchmarks/perturb.jsonl") if "peer_latents_per_second" in line]
    has_tree = any("scipy_latents_per_second" in line for line in lines)
    head = ["K, d, latents in memory", "latents/s", "PyTorch cdist and topk, latents/s", "ratio"]
    head += ["scipy cKDTree, latents/s", "ratio"] if has_tree else []
    rows = []
    for line in lines:
        row = [
            f"{line['codebook_size']}, {line['dim']}, {line['capacity']:,}",
            _short(line["latents_per_second"]),
            _short(line["peer_latents_per_second"]),
            f"{line['ratio']:.0f}",
        ]
        if has_tree:
            tree = line["scipy_latents_per_second"]
            row += [_short(tree), f"{line['latents_per_second'] / tree:.1f}"]
        rows.append([*row, f"{line['acceptance_rate']:.2f}", f"{line['peak_extra_mib']:.0f} MiB"])
    return markdown([*head, "acceptance rate", "extra memory"], rows)


def _perturb_curve() -> str:
    lines = [line for line in read_lines("benchmarks/perturb.jsonl") if "microseconds_by_capacity" in line]
    capacities = list(lines[0]["microseconds_by_capacity"])
    rows = [
        [str(line["dim"]), *(f"{line['microseconds_by_capacity'][capacity]:.1f}" for capacity in capacities)]
        for line in lines
    ]
    return markdown(["d, by latents in the memory", *(f"{int(capacity):,}" for capacity in capacities)], rows)


def _kmeans() -> str:
    head = ["K", "points", "seconds", "scikit-learn, seconds", "mean squared distance", "scikit-learn's"]
    rows = [
        [
            f"{line['codebook_size']:,}",
            f"{line['num_points']:,}",
            f"{line['seconds']:.1f}",
            f"{line['peer_seconds']:.1f}" if "peer_seconds" in line else "",
            str(line["mean_squared_distance"]),
            str(line.get("peer_mean_squared_distance", "")),
        ]
        for line in read_lines("benchmarks/kmeans.jsonl")
        if "num_points" in line
    ]
    return markdown(head, rows)


def _assign() -> str:
    lines = [line for line in read_lines("benchmarks/kmeans.jsonl") if "scipy_latents_per_second" in line]
    head = ["K, d", "ours, latents/s", "scipy cKDTree, latents/s", "PyTorch cdist and argmin, latents/s"]
    keys = ("latents_per_second", "scipy_latents_per_second", "peer_latents_per_second")
    rows = [[f"{line['codebook_size']}, {line['dim']}", *(_short(line[key]) for key in keys)] for line in lines]
    return markdown(head, rows)


def _image_sizes() -> str:
    head = [
        "images",
        "megapixels",
        "tokenizer, seconds",
        "GiB at peak",
        "at the size of each image, seconds",
        "GiB at peak",
    ]
    rows: dict[tuple, list[str]] = {}
    for line in read_lines("benchmarks/image_sizes.jsonl"):
        sizes = f"{line['what']} of {line['num_sizes']} size{'s' * (line['num_sizes'] > 1)}"
        row = rows.setdefault((sizes, line["megapixels"]), [sizes, f"{line['megapixels']:.1f}"])
        row += [f"{line['seconds']:.0f}", f"{line['peak_gibibytes']:.1f}" if "peak_gibibytes" in line else ""]
    return markdown(head, list(rows.values()))


def _listing() -> str:
    head = ["files", "seconds, training split", "seconds, validation split", "sorted(Path.rglob), seconds"]
    rows = [
        [f"{line['num_files']:,}", *(f"{line[key]:.2f}" for key in ("seconds", "validation_seconds", "peer_seconds"))]
        for line in read_lines("benchmarks/listing.jsonl")
    ]
    return markdown(head, rows)


def _memory() -> str:
    head = ["images a device", "settings", "GiB a device"]
    rows = []
    for line in read_lines("benchmarks/memory.jsonl"):
        settings = [f"{key}={line[key]}" for key in line if key.startswith(("model.", "train."))]
        rows.append([str(line["batch_size_a_device"]), ", ".join(settings) or "defaults", f"{line['gibibytes']:.1f}"])
    return markdown(head, sorted(rows, key=lambda row: (row[1] != "defaults", row[1], row[0])))


def _scaling() -> str:
    text = (RESULTS / "benchmarks/scaling.md").read_text()
    return "".join(line + "\n" for line in text.splitlines() if line.startswith("|"))


def _faults() -> str:
    """The summary of the fault campaign: its table before the list of cases."""
    lines = (RESULTS / "reliability/faults.md").read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("|"))
    end = next(number for number in range(start, len(lines)) if not lines[number].startswith("|"))
    return "".join(line + "\n" for line in lines[start:end])


def _fuzz() -> str:
    rows = [
        [line["target"], f"{line['inputs']:,}", f"{line['read']:,}", f"{line['refused']:,}", str(int(line["crash"]))]
        for line in read_lines("reliability/fuzz.jsonl")
    ]
    return markdown(["loader", "damaged files", "read", "refused in one line", "crashed"], rows)


TABLES: dict[str, Callable[[], str]] = {
    "config_keys": config_keys,
    "image_sizes": _image_sizes,
    "listing": _listing,
    "readme": _readme,
    "photos-demo": _photos_demo,
    "photos-comparison": lambda: _comparison("photos/comparison", 0),
    "photos-ablations": lambda: _comparison("photos/comparison", 1),
    "photos-steps": _photos_steps,
    "photos-refits": _photos_refits,
    "rehearsal": _rehearsal,
    "speech-demo": lambda: _speech_runs("demo"),
    "speech-long": lambda: _speech_runs("long"),
    "speech-comparison": lambda: _comparison("speech/comparison", 0),
    "speech-ablations": lambda: _comparison("speech/comparison", 1),
    "perturb": _perturb,
    "perturb-curve": _perturb_curve,
    "kmeans": _kmeans,
    "assign": _assign,
    "memory": _memory,
    "scaling": _scaling,
    "faults": _faults,
    "fuzz": _fuzz,
}

if __name__ == "__main__":
    main()
