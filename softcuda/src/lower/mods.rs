//! The modifiers of an opcode.

use super::Result;
use crate::{fault::LoadError, ptx::Type};

/// The modifiers of an opcode, crossed off as they are understood.
pub(super) struct Mods<'a> {
    pub(super) op: &'a str,
    pub(super) base: &'a str,
    pub(super) parts: Vec<(&'a str, bool)>,
    line: u32,
}

impl<'a> Mods<'a> {
    pub(super) fn new(op: &'a str, line: u32) -> Result<Self> {
        let mut parts = op.split('.');
        let base = parts.next().unwrap_or_default();
        let parts: Vec<_> = parts.map(|part| (part, false)).collect();
        match parts.len() {
            0..=16 => Ok(Self { op, base, parts, line }),
            _ => Err(LoadError { line, message: format!("unknown instruction {op}"), unsupported: false }),
        }
    }

    /// Crosses a modifier off; false if it is not there.
    pub(super) fn take(&mut self, name: &str) -> bool {
        match self.parts.iter_mut().find(|(part, used)| !*used && *part == name) {
            Some((_, used)) => {
                *used = true;
                true
            }
            None => false,
        }
    }

    /// Crosses off the first of these that is there.
    pub(super) fn take_of<T: Copy>(&mut self, known: &[(&str, T)]) -> Option<T> {
        let (part, used) = self
            .parts
            .iter_mut()
            .find(|(part, used)| !*used && known.iter().any(|(name, _)| name == part))?;
        *used = true;
        known.iter().find(|(name, _)| name == part).map(|(_, value)| *value)
    }

    /// Crosses off the first type.
    pub(super) fn ty(&mut self) -> Result<Type> {
        for (part, used) in &mut self.parts {
            if !*used && let Some(ty) = Type::named(part) {
                *used = true;
                return Ok(ty);
            }
        }
        Err(LoadError { line: self.line, message: format!("{} lacks a type", self.op), unsupported: false })
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.parts.iter().any(|(part, used)| !*used && *part == name)
    }

    /// An error if a modifier was not understood.
    pub(super) fn finish(&self) -> Result<()> {
        match self.parts.iter().find(|(_, used)| !*used) {
            Some((part, _)) => Err(LoadError {
                line: self.line,
                message: format!("unknown modifier .{part} of {}", self.op),
                unsupported: true,
            }),
            None => Ok(()),
        }
    }

    pub(super) fn wrong<T>(&self) -> Result<T> {
        Err(LoadError {
            line: self.line,
            message: format!("{} is not an instruction of a supported type", self.op),
            unsupported: true,
        })
    }
}
