"""Every table of the lake, declared once: the Delta schema, Dagster's column schema, the checks and docs/tables.md all
come from here.

Vectors are stored as list<float32>: a fixed-size array writes, but polars then refuses to read it through read_delta.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from model.modalities import FUSED_DIM, MODALITIES, WIDTHS
from model.tasks import LABELLED

TRACK_FIELDS = ("name", "language", "kind", "format", "sha256")
TRACKS = f"list<struct<{', '.join(f'{field}: string' for field in TRACK_FIELDS)}>>"


@dataclass(frozen=True)
class Column:
    """A column of a table.

    type:   string, int32, int64, float64, bool, binary, timestamp (microseconds, UTC), list<string>, list<int64>,
            list<float32> (a vector) or `TRACKS` (the timed-text files of a drop).
    length: of a vector, where it is fixed.
    default: of a column that is declared of a table that exists: what the lake reads for it in rows that were written
            before. Other readers of the Delta table see null there.
    """

    name: str
    type: str
    description: str
    nullable: bool = False
    length: int | None = None
    default: str | int | float | bool | None = None


@dataclass(frozen=True)
class Table:
    """A Delta table.

    partition_by: its partition columns; they are also its first columns. A table without any is only added to, unless
                  its rows have a data version: then it is replaced whole.
    key:          columns that name a row within a partition.
    """

    name: str
    description: str
    partition_by: tuple[str, ...]
    key: tuple[str, ...]
    columns: tuple[Column, ...]

    def column(self, name: str) -> Column:
        return next(column for column in self.columns if column.name == name)


TITLE = Column("title_id", "string", "The title: the name of its folder in the landing zone.")
ENCODER_VERSION = Column("encoder_version", "string", "The encoder's version; newer ones sort after older ones.")
TASK = Column("task", "string", f"{', '.join(LABELLED[:-1])} or {LABELLED[-1]}.")
RUN_ID = Column("run_id", "string", "The Dagster run.")
STEP = Column("step", "string", "The step of the run: `title`, or what is made once for all titles.")
DATA_VERSION = Column(
    "data_version",
    "string",
    "Hash of everything the partition was made from; equal versions hold equal data. The same in all its rows.",
)
SHOT = Column("shot_index", "int32", "The shot's number in its title, from 0.")
START = Column("start_s", "float64", "Where it begins, in seconds from the start of the media.")
END = Column("end_s", "float64", "Where it ends (exclusive), in seconds from the start of the media.")
ENCODED_BY = Column("encoder", "string", "The embedding space: model, weights and preprocessing. Never mix two.")
PRESENT = Column("present", "bool", "False where the shot has nothing of this modality; the vector is then all zeros.")


INPUT_HASH = Column(
    "input_hash",
    "string",
    "Hash of what was embedded, and how: what has the same is not embedded again. Null where there is nothing, it was "
    "made before this column was there, or it is joined from other vectors.",
    nullable=True,
)


REASON = Column("reason", "string", "Why there is nothing, in a sentence; else null.", nullable=True)
TITLE_PARTS = ("contextual", *(name for name, _ in WIDTHS), "metadata")
"""What a title's vector is joined from, in this order."""


def _modality(name: str, what: str) -> tuple[Column, ...]:
    embedding = Column("embedding", "list<float32>", what, length=dict(WIDTHS)[name])
    return (SHOT, embedding, PRESENT, ENCODED_BY, INPUT_HASH)


def _table(
    name: str, description: str, partition_by: tuple[Column, ...], key: tuple[str, ...], *columns: Column
) -> Table:
    # data_version stands before the rest, among the columns whose minimum and maximum the Delta log keeps.
    names = tuple(column.name for column in partition_by)
    return Table(name, description, names, key, (*partition_by, DATA_VERSION, *columns))


TABLES: Mapping[str, Table] = {
    table.name: table
    for table in (
        _table(
            "titles",
            "A title that landed: its metadata, its film as probed, and the hashes that decide what changed.",
            (TITLE,),
            (),
            Column("title", "string", "Its name."),
            Column("type", "string", "movie, episode, trailer, …"),
            Column("synopsis", "string", "Its synopsis; empty when none was given."),
            Column("tags", "list<string>", "Its tags."),
            Column("genres", "list<string>", "Its genres, as given."),
            Column("language", "string", "Language of dialogue and of the timed text used (BCP 47).", nullable=True),
            Column("series_id", "string", "The series it belongs to; splits never cut through one.", nullable=True),
            Column("media_uri", "string", "Where the film lay when it was registered."),
            Column(
                "media_sha256",
                "string",
                "SHA-256 of the film's bytes; while it is live, of the hashes of its parts.",
            ),
            Column("duration_s", "float64", "Length in seconds."),
            Column(
                "fps",
                "float64",
                "Average frame rate, where the file tells; frames have their own times.",
                nullable=True,
            ),
            Column(
                "width",
                "int32",
                "Width in pixels as displayed: upright, with square pixels; null without a picture.",
                nullable=True,
            ),
            Column("height", "int32", "Height in pixels as displayed; null without a picture.", nullable=True),
            Column(
                "has_picture",
                "bool",
                "Whether it can be seen; false: it is only heard, as a podcast, and its shots are segments of sound.",
                default=True,
            ),
            Column("has_audio", "bool", "Whether the film has a sound track that can be decoded."),
            Column("text_tracks", TRACKS, "Its timed-text files; language and kind are null where unknown."),
            Column("extra", "string", "Keys of title.json that this project does not know, as JSON."),
            Column("drop_fingerprint", "string", "Cheap fingerprint (names, sizes, times) of the drop as registered."),
            Column("landed_at", "timestamp", "When its title.json was written."),
            Column(
                "live", "bool", "Whether it still grows; its shots are those that are certain by now.", default=False
            ),
            Column(
                "media_parts",
                "string",
                "Of a title that is or was live: what was taken of its film, in order, as JSON (file, bytes, SHA-256). "
                "Several parts of one file are what it grew by; a file like the one before it is a repetition.",
                nullable=True,
            ),
        ),
        _table(
            "shots",
            "A shot: half-open ranges of frames and seconds that tile the title without gap or overlap. Of a title "
            "without a picture it is a segment of 5 to 30 s of its sound.",
            (TITLE,),
            ("shot_index",),
            SHOT,
            START,
            END,
            Column(
                "start_frame",
                "int64",
                "Its first frame, counted from 0 in display order; null without a picture.",
                nullable=True,
            ),
            Column("end_frame", "int64", "The frame after its last; null without a picture.", nullable=True),
            Column("detector", "string", "What found the cuts, with its parameters."),
            Column(
                "mark",
                "string",
                "While it is live, as JSON: by which code it was found, in what (`media_sha256`), and the key frame "
                "from which the film is decoded again to find the shots after it (number, byte, time stamp, clock's "
                "offset in seconds; null near its start).",
                nullable=True,
            ),
        ),
        _table(
            "shot_frames",
            "Sampled frames of each shot, evenly spaced, as JPEG. A shot without a picture has one row that says so.",
            (TITLE,),
            ("frame_index",),
            SHOT,
            Column("frame_index", "int64", "The frame's number in the title; without a picture, the shot's."),
            Column("time_s", "float64", "The frame's own time in seconds from the start of the media."),
            Column(
                "jpeg",
                "binary",
                "The picture, upright with square pixels, short side at most 224; null: the title has none.",
                nullable=True,
            ),
        ),
        _table(
            "video_embeddings",
            "A video embedding for each shot, from its sampled frames.",
            (TITLE,),
            ("shot_index",),
            *_modality("video", "The shot's video vector, unit norm."),
        ),
        _table(
            "audio_embeddings",
            "An audio embedding for each shot, from its samples.",
            (TITLE,),
            ("shot_index",),
            *_modality("audio", "The shot's audio vector."),
        ),
        _table(
            "text_embeddings",
            "A text embedding for each shot, from the cues heard in it.",
            (TITLE,),
            ("shot_index",),
            *_modality("text", "The shot's text vector, unit norm."),
            Column("text", "string", "The words of the shot's cues; empty when nothing is said."),
            Column("track", "string", "The timed-text file used; null when the title has none.", nullable=True),
        ),
        _table(
            "fused_embeddings",
            "The embeddings of each shot's modalities in one vector: the encoder's input.",
            (TITLE,),
            ("shot_index",),
            SHOT,
            START,
            END,
            Column(
                "embedding",
                "list<float32>",
                f"Blocks of {', '.join(f'{name} ({width})' for name, width in WIDTHS)}, together of unit norm; all "
                "zeros where the shot has none of them.",
                length=FUSED_DIM,
            ),
            *(
                Column(
                    f"has_{modality.name}",
                    "bool",
                    f"False: its {modality.name} block is all zeros.",
                    default=modality.before,
                )
                for modality in MODALITIES
            ),
            INPUT_HASH,
            Column("space", "string", "The embedding spaces of the blocks and the fusion. Never mix two."),
        ),
        _table(
            "global_embeddings",
            "An embedding of each title's metadata: what the [GLOBAL] token tells every shot.",
            (TITLE,),
            (),
            Column("embedding", "list<float32>", "The title's vector, unit norm: 768 or 3072 numbers by encoder."),
            Column("text", "string", "What was embedded."),
            ENCODED_BY,
        ),
        _table(
            "encoder",
            "Trained encoders, a row for each parameter tensor.",
            (ENCODER_VERSION,),
            ("name",),
            Column("name", "string", "The parameter's name."),
            Column("dtype", "string", "Its number type, in safetensors' terms."),
            Column("shape", "list<int64>", "Its shape."),
            Column("data", "binary", "Its numbers: little-endian, row-major."),
            Column("sha256", "string", "SHA-256 of data."),
            Column("space", "string", "The embedding spaces that it was trained on and reads. The same in all rows."),
            Column("config", "string", "JSON: the configuration, and what it was trained on. The same in all rows."),
            Column("metrics", "string", "JSON: validation figures. The same in all rows."),
            Column("created_at", "timestamp", "When it was written."),
        ),
        _table(
            "encoder_training",
            "How each encoder's training went, a row for each report.",
            (ENCODER_VERSION,),
            ("step", "split"),
            Column("step", "int64", "Optimiser steps taken."),
            Column("split", "string", "train or validation."),
            Column("loss", "float64", "Mean loss over masked shots: 1 - cosine."),
            Column("cosine", "float64", "Mean cosine at masked shots.", nullable=True),
            Column("lr_muon", "float64", "Muon's learning rate at the step.", nullable=True),
            Column("lr_adamw", "float64", "AdamW's learning rate at the step.", nullable=True),
            Column("shots_per_s", "float64", "Shots trained per second since the last report.", nullable=True),
        ),
        Table(
            "encoder_promotions",
            "Which encoder is in use, and why: a row for each decision. The last row that says promoted names the "
            "generation to read in tables by encoder_version; all its titles are there.",
            (),
            ("decided_at", "encoder_version"),
            (
                ENCODER_VERSION,
                Column("space", "string", "The embedding spaces that it reads."),
                Column("promoted", "bool", "Whether it came into use; false: it was held back."),
                Column("previous", "string", "The encoder that was in use before, if any.", nullable=True),
                Column("decided_at", "timestamp", "When."),
                Column("by", "string", "Who decided: a person, or `gate`."),
                Column("why", "string", "The reason, in a sentence."),
                Column(
                    "comparison",
                    "string",
                    "JSON: for each task the scores of both encoders and their difference with its interval.",
                ),
            ),
        ),
        _table(
            "contextual_embeddings",
            "Each shot in the context of its title: what the encoder makes of it, and what it was.",
            (ENCODER_VERSION, TITLE),
            ("shot_index",),
            SHOT,
            START,
            END,
            Column(
                "embedding", "list<float32>", "What to take: `last`, then the fused vector, at equal norms; norm 1."
            ),
            Column("last", "list<float32>", "The encoder's last layer alone; as long as it is wide.", nullable=True),
            Column("middle", "list<float32>", "Its middle layer.", nullable=True),
        ),
        _table(
            "failures",
            "Titles that could not be finished the last time: where and why. A title's row goes when it is finished.",
            (TITLE,),
            (),
            Column("stage", "string", "The table that could not be made."),
            Column("reason", "string", "What failed, why, what to do, in one sentence."),
            Column("attempt", "string", "Hash of what was read; while it is the same, nothing tries again by itself."),
            Column("waits", "bool", "Nothing is wrong: it is live, and waits for more of its film.", default=False),
            Column("run_id", "string", "The Dagster run."),
            Column("failed_at", "timestamp", "When."),
        ),
        _table(
            "costs",
            "What each stage took for each title, as the run measured it, and what it was planned to take. Each step "
            "of a run writes its own rows; what failed is among them, since it was paid for.",
            (RUN_ID, STEP),
            ("stage", "title_id"),
            Column("title_id", "string", "The title; null of what is made once for all titles.", nullable=True),
            Column("stage", "string", "The first of the tables that are made in one go."),
            Column("made", "bool", "Whether it was made; false: it failed."),
            Column("seconds", "float64", "How long it took."),
            Column("gpu_seconds", "float64", "The same where it was computed on a GPU, else 0."),
            Column("film_s", "float64", "Length of the film, or of all films; null while unknown.", nullable=True),
            Column("bytes", "int64", "Size of the data files that were written."),
            Column("tokens", "int64", "Tokens that a service counted."),
            Column("dollars", "float64", "Their list price; null where it is not known.", nullable=True),
            Column("cached_share", "float64", "Share of the texts that had been paid for before.", nullable=True),
            Column("planned_seconds", "float64", "As planned when the run began; null: no history.", nullable=True),
            Column("planned_tokens", "int64", "As planned when the run began; null: nobody could.", nullable=True),
            Column("planned_dollars", "float64", "As planned when the run began; null: nobody could.", nullable=True),
            Column("machine", "string", "Processor, cores and GPUs: seconds of other machines are no guide."),
            Column("code", "string", "The stage's code version, with the configuration that shapes its values."),
            Column("materialised_at", "timestamp", "When it was done."),
        ),
        Table(
            "approvals",
            "Which configuration titles are made in: the last row's. Another one waits until a row approves of it.",
            (),
            ("decided_at", "configuration"),
            (
                Column("configuration", "string", "Hash of `tables`."),
                Column("tables", "string", "JSON: of each table of titles, a hash of code and configuration."),
                Column("decided_at", "timestamp", "When."),
                Column("by", "string", "Who: a person, `automation`, or a run of the asset `approval`."),
                Column("why", "string", "The reason, in a sentence."),
                Column("titles", "int64", "How many titles it made stale."),
                Column("planned_seconds", "float64", "What it was expected to take; null: not known.", nullable=True),
                Column("planned_tokens", "int64", "Tokens, as expected; null: not known.", nullable=True),
                Column("planned_dollars", "float64", "Their list price; null: not known.", nullable=True),
            ),
        ),
        _table(
            "freshness",
            "What is fresh, stale, missing, failed or waiting, and why: of each title in each table, and of what is "
            "made once for all titles. Written by the daemon and the command when something changes.",
            (),
            ("table", "title_id"),
            Column("table", "string", "The table, or what else a stage makes."),
            Column("title_id", "string", "The title; empty: not made title by title."),
            Column("state", "string", "fresh, stale, missing, failed or waiting."),
            Column("reason", "string", "Why it is not fresh, in one sentence; empty when it is."),
            Column("stored_version", "string", "The data version that is stored; null where none is.", nullable=True),
            Column("wanted_version", "string", "The one that it would get now; null while unknown.", nullable=True),
            Column("since", "timestamp", "Since when it is so, or was first seen to be so."),
            Column("run_id", "string", "The Dagster run that made it, or failed to.", nullable=True),
            Column("seconds", "float64", "How long that took; all tables made in one go together.", nullable=True),
            Column("dollars", "float64", "The list price of the tokens it took.", nullable=True),
            Column("made_from", "string", "JSON: what the stored version was made from, as far as it was seen."),
        ),
        _table(
            "clip_labels",
            "Labelled clips and scenes, as dropped into the landing zone.",
            (TASK,),
            ("clip_id",),
            Column("clip_id", "string", "The clip; of a scene its title, and when it begins."),
            TITLE,
            START,
            END,
            Column("labels", "list<string>", "Labels, for the multi-label tasks.", nullable=True),
            Column("score", "float64", "Click-through rate, for clip_popularity.", nullable=True),
            Column("label", "int32", "1 for clip-worthy, else 0, for clip_retrieval.", nullable=True),
        ),
        _table(
            "probe_metrics",
            "What linear probes on each representation score on each task, and how well scenes are found, for each "
            "encoder.",
            (ENCODER_VERSION,),
            ("task", "representation", "metric"),
            TASK,
            Column(
                "representation",
                "string",
                "What was probed: video, audio, text, fused (the three), moving_average and title_mean of fused, "
                "contextual_clip_alone, contextual_in_context; and the clip encoders of clip_embeddings. Of scenes: "
                "what they are found by (docs/scenes.md).",
            ),
            Column(
                "metric",
                "string",
                "The task's published metric; of scenes AP, AP by title, F1 and mIoU.",
            ),
            Column("value", "float64", "The score; null when there are too few labels (see note).", nullable=True),
            Column("ci_low", "float64", "Lower end of its 95 % interval, bootstrapped over titles.", nullable=True),
            Column("ci_high", "float64", "Upper end.", nullable=True),
            Column("n_clips", "int32", "Labelled clips used; of scenes, shots at which one may begin."),
            Column("n_titles", "int32", "Titles they come from."),
            Column("note", "string", "Why there is no number.", nullable=True),
        ),
        _table(
            "ablations",
            "What each part of the encoder's recipe is worth: every variant differs in one thing from the one that it "
            "is compared with. Made on request, for all variants at once.",
            (),
            ("ablation", "variant", "task", "seed"),
            Column(
                "ablation",
                "string",
                "What is varied: modalities (concatenated, without an encoder), modalities_in_context, context, "
                "title_token, fusion, mask_ratio, optimizer, depth or window.",
            ),
            Column("variant", "string", "The value that it has, such as audio+text, clip_alone or 0.4."),
            Column(
                "against",
                "string",
                "The variant that it is compared with; null: it is the one that others are compared with.",
                nullable=True,
            ),
            Column(
                "task",
                "string",
                "A task of probe_metrics; or masked_shots: how well shots that are hidden are foretold in titles that "
                "were not trained on.",
            ),
            Column("metric", "string", "The task's metric; of masked_shots the skill over the best without a model."),
            Column(
                "seed",
                "int32",
                "Of the encoder's training; null: all seeds together, or nothing was trained.",
                nullable=True,
            ),
            Column("steps", "int32", "Steps that each encoder was trained for; null: nothing was.", nullable=True),
            Column("value", "float64", "The score, the mean over seeds; null: see note.", nullable=True),
            Column(
                "ci_low",
                "float64",
                "Lower end of its 95 % interval, bootstrapped over titles and seeds.",
                nullable=True,
            ),
            Column("ci_high", "float64", "Upper end.", nullable=True),
            Column(
                "difference", "float64", "The score less that of `against`, on the same clips and seeds.", nullable=True
            ),
            Column(
                "difference_low", "float64", "Lower end of its 95 % interval, title by title and seed.", nullable=True
            ),
            Column("difference_high", "float64", "Upper end.", nullable=True),
            Column("n_clips", "int32", "Labelled clips used; null for masked_shots.", nullable=True),
            Column("n_titles", "int32", "Titles that the score is of."),
            Column("note", "string", "Why there is no number.", nullable=True),
        ),
        _table(
            "scenes",
            "A title's shots grouped into scenes: runs of shots that belong together. Found without labels, unless a "
            "boundary_head is better.",
            (TITLE,),
            ("scene_index",),
            Column("scene_index", "int32", "The scene's number in its title, from 0."),
            Column("first_shot", "int32", "Its first shot."),
            Column("last_shot", "int32", "Its last shot (inclusive). Scenes hold every shot once."),
            START,
            END,
            Column("boundary_score", "float64", "Probability that a scene begins at first_shot; 0 for scene 0."),
            Column("embedding", "list<float32>", "Mean of its shots' contextual vectors, unit norm."),
            ENCODER_VERSION,
            Column(
                "head_version",
                "string",
                "Data version of the boundary_head that scored and cut them; null: found without labels.",
                nullable=True,
            ),
        ),
        _table(
            "boundary_head",
            "A linear model of where scenes begin, fitted on labelled scenes: probability = sigmoid(weights . x + "
            "bias). x is, joined: the `last` vectors of the shot before and of the shot, each of norm 1, the absolute "
            "differences of their numbers, and log(p / (1 - p)), p being the probability that is found without labels, "
            "kept between 1e-9 and 1 - 1e-9.",
            (ENCODER_VERSION,),
            (),
            Column("weights", "list<float32>", "A number for each of x; null where it is not usable.", nullable=True),
            Column("bias", "float64", "Added to the product. Calibration is folded into both.", nullable=True),
            Column("cutoff", "float64", "A scene begins where the probability is at least this.", nullable=True),
            Column("average_precision", "float64", "On titles that were held out.", nullable=True),
            Column("ci_low", "float64", "Lower end of its 95 % interval, bootstrapped over titles.", nullable=True),
            Column("ci_high", "float64", "Upper end.", nullable=True),
            Column("unsupervised", "float64", "The same of what is found without labels.", nullable=True),
            Column("gain", "float64", "How much more the head has.", nullable=True),
            Column("gain_low", "float64", "Lower end of its 95 % interval, bootstrapped over titles.", nullable=True),
            Column("gain_high", "float64", "Upper end.", nullable=True),
            Column("n_shots", "int32", "Shots at which a scene may begin.", nullable=True),
            Column("n_titles", "int32", "Titles they come from.", nullable=True),
            Column("usable", "bool", "Whether gain_low is above 0: then it makes `scenes`."),
            REASON,
        ),
        _table(
            "title_embeddings",
            "A title as one vector, for titles that nobody has watched yet; and the parts that it is joined from.",
            (TITLE,),
            (),
            Column("embedding", "list<float32>", f"{', '.join(TITLE_PARTS)}, each of norm 1, joined, of norm 1."),
            Column("contextual", "list<float32>", "Mean direction of its shots in context, by their lengths."),
            *(
                Column(
                    name, "list<float32>", f"The same of its shots' {name} embeddings; zeros: none has any.", length=n
                )
                for name, n in WIDTHS
            ),
            Column("metadata", "list<float32>", "Its metadata's embedding."),
            Column("shots", "int32", "How many shots."),
            ENCODER_VERSION,
        ),
        _table(
            "title_neighbours",
            "The titles that are most like each title, and what makes them alike.",
            (ENCODER_VERSION,),
            ("title_id", "rank"),
            TITLE,
            Column("rank", "int32", "From 1, the nearest; 0 where there is none (see reason)."),
            Column("neighbour_id", "string", "The other title.", nullable=True),
            Column("score", "float64", "From -1 to 1: the mean of the parts' cosines.", nullable=True),
            *(Column(name, "float64", f"What {name} adds to the score.", nullable=True) for name in TITLE_PARTS),
            REASON,
        ),
        _table(
            "title_metrics",
            "What the parts of title_embeddings tell of titles.",
            (ENCODER_VERSION,),
            ("task", "representation"),
            Column(
                "task",
                "string",
                "title_genre: the genres, by linear probes, of works that were held out; title_series: whether the "
                "titles most like one are of its series.",
            ),
            Column(
                "representation",
                "string",
                f"embedding, {', '.join(TITLE_PARTS)}, or chance. metadata has the genres and the name in it, so has "
                "embedding, and contextual may know them from there.",
            ),
            Column("metric", "string", "macro AP over genres; MAP: the mean of average precisions over titles."),
            Column("value", "float64", "The score; null when there are too few titles (see note).", nullable=True),
            Column("ci_low", "float64", "Lower end of its 95 % interval, bootstrapped over works.", nullable=True),
            Column("ci_high", "float64", "Upper end.", nullable=True),
            Column("n_titles", "int32", "Titles used: of title_genre, those with a genre."),
            Column("n_works", "int32", "Series, and titles without one: what is held out or sampled together."),
            Column("note", "string", "Why there is no number.", nullable=True),
        ),
        _table(
            "probes",
            "Linear models of labels, fitted on all labelled clips: probability = sigmoid(weights . x + bias), where x "
            "is the mean of the shots' contextual vectors.",
            (ENCODER_VERSION,),
            ("task", "label"),
            TASK,
            Column("label", "string", "What it predicts; of clip_retrieval its own name.", nullable=True),
            Column("weights", "list<float32>", "One number for each of the contextual vector's.", nullable=True),
            Column(
                "bias",
                "float64",
                "Added to the product. Calibration is folded into both.",
                nullable=True,
            ),
            Column("clip_s", "float64", "Median length of the task's labelled clips, in seconds.", nullable=True),
            Column("average_precision", "float64", "On titles that were held out.", nullable=True),
            Column("ci_low", "float64", "Lower end of its 95 % interval, bootstrapped over titles.", nullable=True),
            Column("ci_high", "float64", "Upper end.", nullable=True),
            Column(
                "chance",
                "float64",
                "Share of the clips that have the label.",
                nullable=True,
            ),
            Column(
                "calibration_error",
                "float64",
                "Mean distance of probability and frequency.",
                nullable=True,
            ),
            Column("n_clips", "int32", "Labelled clips used.", nullable=True),
            Column("n_titles", "int32", "Titles they come from.", nullable=True),
            Column("usable", "bool", "Whether it beats that share in 97.5 % of bootstrap samples: then it tags."),
            REASON,
        ),
        _table(
            "tags",
            "Labels of titles and of windows of them, from the probes that beat chance.",
            (TITLE,),
            ("task", "scope", "label", "first_shot"),
            TASK,
            Column("scope", "string", "title, or window: about as long as the task's labelled clips."),
            Column("first_shot", "int32", "First shot that is tagged."),
            Column("last_shot", "int32", "Last shot (inclusive)."),
            START,
            END,
            Column("label", "string", "The tag; null where the task gives none (see reason).", nullable=True),
            Column("probability", "float64", "Calibrated, from 0 to 1.", nullable=True),
            Column("shots", "list<int64>", "The shots that argue most for it, the strongest first."),
            Column("probe_version", "string", "Data version of the probes."),
            REASON,
        ),
        _table(
            "ad_breaks",
            "Places for a break, best first: beginnings of scenes, in pauses of the dialogue, not too close together.",
            (TITLE,),
            ("rank",),
            Column("rank", "int32", "From 1, the best; 0 where there is none (see reason)."),
            Column("shot_index", "int32", "First shot after the break.", nullable=True),
            Column("time_s", "float64", "When, in seconds from the start of the media.", nullable=True),
            Column("score", "float64", "What it is ranked by, from 0 to 1.", nullable=True),
            Column("boundary_score", "float64", "Probability that a scene begins here.", nullable=True),
            Column(
                "pause_s",
                "float64",
                "Seconds around it without words; null without timed text.",
                nullable=True,
            ),
            Column("gap_s", "float64", "Seconds to the nearest better break, or end of the title.", nullable=True),
            Column("before", "list<string>", "Ad categories of what is shown before it, likeliest first."),
            Column("after", "list<string>", "Ad categories of what is shown after it."),
            REASON,
        ),
        _table(
            "highlights",
            "Clips that are worth showing, best first; they do not overlap.",
            (TITLE,),
            ("rank",),
            Column("rank", "int32", "From 1, the best; 0 where there is none (see reason)."),
            Column("first_shot", "int32", "Its first shot.", nullable=True),
            Column("last_shot", "int32", "Its last shot (inclusive).", nullable=True),
            Column("start_s", "float64", "Where it begins, in seconds.", nullable=True),
            Column("end_s", "float64", "Where it ends (exclusive).", nullable=True),
            Column("score", "float64", "Probability that an editor would choose it.", nullable=True),
            Column("probe_version", "string", "Data version of the probes."),
            REASON,
        ),
        Table(
            "clip_embeddings",
            "Labelled clips as outside services and other clip encoders see them, to be probed beside our own vectors; "
            "by content, so that none is paid for twice.",
            (),
            ("key",),
            (
                Column("key", "string", "SHA-256, in hex, over space, film, its language and the span."),
                Column("clip_encoder", "string", "mean_frames, vertex, marengo or nova."),
                Column("space", "string", "The embedding space: model, and how a clip is put to it. Never mix two."),
                Column("media_sha256", "string", "The film, as in titles."),
                START,
                END,
                Column(
                    "embedding", "list<float32>", "The clip's vector, as it was given; null without one.", nullable=True
                ),
                REASON,
            ),
        ),
        Table(
            "text_cache",
            "Text embeddings that a service was paid for, by content, so that none is paid for twice.",
            (),
            ("key",),
            (
                Column("key", "string", "SHA-256, in hex, over model, dimensions and text."),
                Column("model", "string", "The service's model."),
                Column("dimensions", "int32", "Numbers of the vector."),
                Column("embedding", "list<float32>", "The text's vector, unit norm."),
            ),
        ),
    )
}
