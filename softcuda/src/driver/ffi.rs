//! The border to C: pointers and strings as a client passes them.
//!
//! An entry point of the driver takes these as parameters. They have the layout of the C pointer, cannot be made from
//! safe code, and each is read or written only where the CUDA documentation says that the client passes valid memory.

use std::ffi::{CStr, c_char};

use super::error::{CUresult, Result};

/// A pointer to which the driver writes one or more `T`.
#[repr(transparent)]
pub struct Out<T>(*mut T);

impl<T> Clone for Out<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Out<T> {}

impl<T> Out<T> {
    /// Writes the value; a null pointer is `CUDA_ERROR_INVALID_VALUE`.
    pub fn put(self, value: T) -> Result<()> {
        self.check()?;
        // SAFETY: not null, and the client passes room for a `T` here.
        unsafe { self.0.write(value) };
        Ok(())
    }

    /// Writes the value if the client wants it: null means that it does not.
    pub fn put_if_wanted(self, value: T) {
        // The only error is null.
        let _ = self.put(value);
    }

    /// Writes the values one after the other; the client passes room for as many.
    pub fn put_all(self, values: impl IntoIterator<Item = T>) -> Result<()> {
        self.check()?;
        for (i, value) in values.into_iter().enumerate() {
            // SAFETY: not null, and the client says how many it has room for, which the caller keeps to.
            unsafe { self.0.add(i).write(value) };
        }
        Ok(())
    }

    /// `CUDA_ERROR_INVALID_VALUE` for null.
    pub fn check(self) -> Result<()> {
        if self.0.is_null() { Err(CUresult::CUDA_ERROR_INVALID_VALUE) } else { Ok(()) }
    }

    /// Whether the client passed null.
    pub fn is_null(self) -> bool {
        self.0.is_null()
    }
}

impl<T: Copy> Out<T> {
    /// The value that the client left there, for parameters that go both ways.
    pub fn get(self) -> Result<T> {
        In(self.0.cast_const()).get()
    }

    /// From an address that came inside an array of untyped values.
    ///
    /// # Safety
    /// The client must have passed it as a pointer to `T`.
    pub unsafe fn from_address(address: usize) -> Self {
        Self(address as *mut T)
    }
}

impl Out<c_char> {
    /// Writes text and its terminating zero, shortened to `room` bytes.
    pub fn put_text(self, text: &str, room: usize) -> Result<()> {
        let text = &text.as_bytes()[..text.len().min(room.saturating_sub(1))];
        match room {
            0 => self.check(),
            _ => self.put_all(text.iter().chain([&0]).map(|&b| b as c_char)),
        }
    }
}

/// A pointer from which the driver reads one or more `T`. `T` has no invalid bit patterns.
#[repr(transparent)]
pub struct In<T>(*const T);

impl<T> Clone for In<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for In<T> {}

impl<T: Copy> In<T> {
    /// The value; a null pointer is `CUDA_ERROR_INVALID_VALUE`.
    pub fn get(self) -> Result<T> {
        if self.0.is_null() {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        // SAFETY: not null, and the client passes a valid `T` here.
        Ok(unsafe { self.0.read() })
    }

    /// The first `count` values. Null is an error unless `count` is 0.
    pub fn list(self, count: usize) -> Result<Vec<T>> {
        if count == 0 {
            return Ok(Vec::new());
        }
        if self.0.is_null() {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        // SAFETY: not null, and the client says that `count` values are there.
        Ok(unsafe { std::slice::from_raw_parts(self.0, count) }.to_vec())
    }

    /// Whether the client passed null.
    pub fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// Where the values are.
    pub fn address(self) -> usize {
        self.0 as usize
    }

    /// From an address that came inside an array of untyped values.
    ///
    /// # Safety
    /// The client must have passed it as a pointer to `T`.
    pub unsafe fn from_address(address: usize) -> Self {
        Self(address as *const T)
    }
}

/// Text that ends with a zero byte.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Text(*const c_char);

impl Text {
    /// The text; null is `CUDA_ERROR_INVALID_VALUE`. What is not UTF-8 is replaced.
    pub fn get(self) -> Result<String> {
        if self.0.is_null() {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        // SAFETY: not null, and the client passes a string that ends with a zero byte.
        Ok(unsafe { CStr::from_ptr(self.0) }.to_string_lossy().into_owned())
    }
}
