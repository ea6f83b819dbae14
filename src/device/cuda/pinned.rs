//! Page-locked host memory, through which copies pass: the driver may then copy while the host goes on.

use std::{ffi::c_void, slice};

use cudarc::driver::result;

use super::fail;
use crate::error::Result;

/// Page-locked memory, handed out from the front until it is reused as a whole.
#[derive(Debug)]
pub struct Pinned {
    at: *mut c_void,
    bytes: usize,
    used: usize,
}

// SAFETY: the memory is owned, and the driver's page-locked memory belongs to no thread.
unsafe impl Send for Pinned {}

impl Pinned {
    /// `bytes` of it. The context is current.
    pub fn new(bytes: usize) -> Result<Self> {
        // SAFETY: no flags; the size is above 0.
        let at = unsafe { result::malloc_host(bytes, 0) }.map_err(fail("page-locked memory"))?;
        Ok(Self { at, bytes, used: 0 })
    }

    /// Whether `bytes` more fit before it must be reused.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.used + bytes <= self.bytes
    }

    /// Nothing that was handed out is in use any more.
    pub fn reuse(&mut self) {
        self.used = 0;
    }

    /// A copy of `data`, in use until [`Self::reuse`]. Panics if there is no room.
    pub fn put(&mut self, data: &[u8]) -> &[u8] {
        assert!(self.has_room(data.len()), "{} bytes of {}", data.len(), self.bytes - self.used);
        // SAFETY: `used..used + len` lies in the memory and was not handed out since it was last reused.
        let part = unsafe { slice::from_raw_parts_mut(self.at.cast::<u8>().add(self.used), data.len()) };
        part.copy_from_slice(data);
        self.used += data.len().next_multiple_of(64);
        part
    }

    /// The first `bytes` of it, of unspecified content.
    pub fn slice_mut(&mut self, bytes: usize) -> &mut [u8] {
        assert!(bytes <= self.bytes);
        // SAFETY: inside the memory, which the driver maps as ordinary bytes; borrowed as long as `self`.
        unsafe { slice::from_raw_parts_mut(self.at.cast(), bytes) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // Memory of a context that is gone is gone with it.
        // SAFETY: it came from `malloc_host` and is freed once.
        let _ = unsafe { result::free_host(self.at) };
    }
}
