//! The small model that ships inside the binary.

use crate::model::Source;

/// Its files.
pub fn source() -> Source {
    Source::Embedded(&[])
}
