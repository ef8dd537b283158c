"""What a catalogue of so many hours takes: machines, hours, dollars and gigabytes, from what was measured.

    python benchmarks/catalogue_cost.py [--hours 1000 100000 10000000]

Arithmetic, no measurement: the figures below, each with where it comes from. Dollars are list prices of us-east-1 in
2025, and wrong by the time you read this. Prints the table of docs/scaling.md.
"""

import argparse
from dataclasses import dataclass

# Processor seconds for an hour of film, embedded profile, float32 on AVX2 (docs/benchmarks.md, docs/decisions.md).
STAGES = {
    "decoding, frames, sound": 200
    * 2.25,  # 2.9 s for 52 s of 720p (benchmarks/ingest.py); 1080p has 2.25 of its pixels
    "TransNet V2": 24 * 3600 / 50 * 82 / 116,  # windows of 82 GFLOP, 50 frames on each, at 116 GFLOP/s
    "video_embeddings": 152,  # benchmarks/real_films.py
    "audio_embeddings": 55,
    "text_embeddings": 6,
    "ten tables' writing and Dagster's events": 10 * (0.025 + 0.02),  # benchmarks/orchestration.py, scale.py; a title
}
SHARE_OF_LINEAR = 0.85  # the target of benchmarks/workers.py, for want of a machine with more cores
TITLE_HOURS = 1.0  # films of two, episodes of less
SHOTS = 830  # an hour: Big Buck Bunny has 137 in 9.9 minutes
JPEG_BYTES = 11_500  # a sampled frame of 224 pixels: the mean over Sintel's trailer
VECTOR_BYTES = 4 * (768 + 768 + 768 + 2304 + 2560 + 2 * 256)  # a shot, one encoder
FILES = 10  # a title: one in each table
TRAINED = 230_927  # shots a second on an H200, 6 x 512, at best (benchmarks/training.py)
EPOCHS = 20

TASK_VCPU, TASK_SPOT, TASK_ON_DEMAND = 4, 0.07, 0.23  # Fargate, 4 vCPU and 16 GB, dollars an hour
S3_GB_MONTH, S3_PUTS_1000, GPU_HOUR = 0.023, 0.005, 6.0  # an H200's share of a machine of eight
ALWAYS_MONTH = 125  # deploy/aws/mediafm.yaml


@dataclass(frozen=True)
class Plan:
    hours: int
    machines: int  # tasks of TASK_VCPU at once

    @property
    def titles(self) -> int:
        return round(self.hours / TITLE_HOURS)

    @property
    def task_hours(self) -> float:
        return self.hours * sum(STAGES.values()) / 3600 / TASK_VCPU / SHARE_OF_LINEAR

    @property
    def terabytes(self) -> float:
        return self.hours * SHOTS * (8 * JPEG_BYTES + VECTOR_BYTES) / 1e12

    @property
    def epoch_hours(self) -> float:
        return self.hours * SHOTS / TRAINED / 3600

    def rows(self) -> dict[str, str]:
        training = EPOCHS * self.epoch_hours
        return {
            "titles": f"{self.titles:,}",
            "vCPU hours": f"{self.task_hours * TASK_VCPU:,.0f}",
            f"tasks of {TASK_VCPU} vCPU at once": f"{self.machines:,}",
            "days": f"{self.task_hours / self.machines / 24:,.1f}",
            "dollars, spot; on demand": f"{self.task_hours * TASK_SPOT:,.0f}; {self.task_hours * TASK_ON_DEMAND:,.0f}",
            "dollars of S3 writes": f"{self.titles * FILES * 3 / 1000 * S3_PUTS_1000:,.0f}",
            "lake, TB; dollars a month": f"{self.terabytes:,.2f}; {self.terabytes * 1000 * S3_GB_MONTH:,.0f}",
            "of it frames": f"{8 * JPEG_BYTES / (8 * JPEG_BYTES + VECTOR_BYTES):.0%}",
            f"{EPOCHS} epochs on one H200: hours; dollars": f"{training:,.1f}; {training * GPU_HOUR:,.0f}",
            "Dagster's events": f"{self.titles * FILES * 2:,}",
            "data files": f"{self.titles * FILES:,}",
            "requests to list the landing zone once": f"{self.titles * 3 / 1000:,.0f}",
            "all else, dollars a month": f"{ALWAYS_MONTH}",
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=int, nargs="+", default=[1_000, 100_000, 10_000_000])
    parser.add_argument("--machines", type=int, nargs="+", default=[8, 200, 5_000], help="tasks at once, for each")
    options = parser.parse_args()
    plans = [Plan(hours, machines) for hours, machines in zip(options.hours, options.machines, strict=True)]
    print("| processor seconds for an hour of film | |\n|---|---|")
    for stage, seconds in STAGES.items():
        print(f"| {stage} | {seconds:,.0f} |")
    print(f"| in all | {sum(STAGES.values()):,.0f} |\n")
    print("| hours | " + " | ".join(f"{plan.hours:,}" for plan in plans) + " |")
    print("|---" * (len(plans) + 1) + "|")
    for name in plans[0].rows():
        print(f"| {name} | " + " | ".join(plan.rows()[name] for plan in plans) + " |")


if __name__ == "__main__":
    main()
