//! The small model that ships inside the binary; `models/stories-2m/` tells what it is.

use crate::model::{Source, source::Aligned};

static WEIGHTS: &Aligned<[u8]> = &Aligned(*include_bytes!("../models/stories-2m/model.safetensors"));

static FILES: [(&str, &[u8]); 5] = [
    ("config.json", include_bytes!("../models/stories-2m/config.json")),
    ("generation_config.json", include_bytes!("../models/stories-2m/generation_config.json")),
    ("model.safetensors", &WEIGHTS.0),
    ("tokenizer.json", include_bytes!("../models/stories-2m/tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("../models/stories-2m/tokenizer_config.json")),
];

/// Its files.
pub fn source() -> Source {
    Source::Embedded(&FILES)
}
