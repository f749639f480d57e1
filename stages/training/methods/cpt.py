"""Continued pre-training with TRL and PEFT: a language model goes on reading documents, before it learns a task.

A document has no prompt and no answer. It is cut into windows of at most ``train.max_length`` tokens, and all of its
tokens are learned (``stages.training.windows``). With ``packing`` several windows share a sequence, and none attends to
another one.
"""

from collections.abc import Iterator
from typing import Any, Literal

from checks.kinds.method import Job, Train
from checks.process.errors import TrainingRefused
from checks.records.sections import problems


class Cpt(Train):
    """Continued pre-training on documents, with LoRA or of the base's own weights."""

    of_documents = True
    without_adapter = True
    packable = True

    method: Literal["cpt"]

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction, as "problem|remedy"."""
        yield from super().contradictions()
        yield from problems(
            (
                self.early_stopping is not None,
                (
                    "early_stopping: train.method 'cpt' learns from documents, and the valid split has none|"
                    "write early_stopping: null for it"
                ),
            )
        )

    def trainer(self, job: Job) -> Any:
        """TRL's trainer over windows of documents. Raises TrainingRefused where they do not fit the model."""
        from datasets import Dataset
        from trl import SFTConfig

        from stages.training import packing, windows
        from stages.training.answers import trainer_class
        from stages.training.trainer import log_every

        most = getattr(job.model.config.get_text_config(), "max_position_embeddings", None)
        if most is not None and self.max_length > most:
            raise TrainingRefused(
                f"train.max_length: windows of {self.max_length} tokens exceed the {most} positions of the base",
                f"set it to {most} or less in the step of train.method 'cpt'",
            )
        documents = windows.encoded(job.tokenizer, [row.reference for row in job.rows])
        windows_cut = list(windows.cut(documents, self.max_length))
        # Most windows are full, so there is little padding to save by an order of lengths.
        own = {
            "train_sampling_strategy": "random",
            "logging_steps": log_every(self, len(windows_cut)),
        }
        own |= {"include_num_input_tokens_seen": "all"} if self.packing else {}
        trainer = trainer_class()(
            model=job.model,
            args=SFTConfig(
                **{**job.settings, **own},
                max_length=None,
                packing=False,
                completion_only_loss=False,
            ),
            train_dataset=Dataset.from_list(windows_cut),
            processing_class=job.tokenizer,
            peft_config=job.adapter,
            callbacks=list(job.callbacks),
        )
        if self.packing:
            packing.pack(trainer, self)
        return trainer
