"""What every run imports: a sweep's fork server does so once. Importing runs nothing."""

import transformers.models.auto.modeling_auto  # noqa: F401
import transformers.models.roberta.modeling_roberta  # noqa: F401

import experiments.run_record  # noqa: F401
