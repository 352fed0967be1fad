"""GPS as a method of Hugging Face PEFT: ``import gps_seg.peft`` once, and peft's own functions know it.

Example:
    >>> import peft, gps_seg.peft
    >>> config = gps_seg.peft.select(model, gps_seg.peft.GPSConfig(k=1), batches, loss)   # one pass over the batches
    >>> tuned = peft.get_peft_model(model, config)
    >>> ...                                                # any optimizer, any trainer
    >>> tuned.save_pretrained("folder")
    >>> merged = peft.PeftModel.from_pretrained(fresh_model, "folder").merge_and_unload()
"""

from gps_seg.packages import import_torchvision

import_torchvision()  # peft imports transformers, which imports it

from gps_seg.peft.config import GPSConfig, config_for, select  # noqa: E402
from gps_seg.peft.convert import to_gps_model, to_peft_model  # noqa: E402
from gps_seg.peft.layer import GPSLayer  # noqa: E402
from gps_seg.peft.register import register  # noqa: E402
from gps_seg.peft.tuner import GPSTuner  # noqa: E402

register(GPSConfig, GPSTuner)

__all__ = ["GPSConfig", "GPSLayer", "GPSTuner", "config_for", "select", "to_gps_model", "to_peft_model"]
