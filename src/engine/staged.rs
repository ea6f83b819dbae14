//! Lists that are built on the host and read on the device, and the other way round.

use std::marker::PhantomData;

use crate::{
    device::{Device, Element, Tensor, View},
    error::Result,
};

/// Host memory and device memory of the same capacity; nothing is allocated after [`Self::new`] unless it overflows.
pub struct Staged<D: Device, T: Element> {
    /// The values; cleared and filled for every step.
    pub host: Vec<T>,
    dev: Tensor<D>,
}

impl<D: Device, T: Element> Staged<D, T> {
    /// Room for `capacity` values.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the memory is not there.
    pub fn new(dev: &D, capacity: usize) -> Result<Self> {
        let capacity = capacity.max(1);
        Ok(Self { host: Vec::with_capacity(capacity), dev: Tensor::zeros(dev, T::DTYPE, &[capacity])? })
    }

    /// Values that the device has room for.
    pub fn capacity(&self) -> usize {
        self.dev.shape()[0]
    }

    /// Copies the host's values to the device, whose memory grows if they are more than ever before.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the copy fails or the memory is not there.
    pub fn upload(&mut self, dev: &D) -> Result<()> {
        if self.host.len() > self.capacity() {
            self.dev = Tensor::zeros(dev, T::DTYPE, &[self.host.len().next_power_of_two()])?;
        }
        self.dev.write(dev, &self.host)
    }

    /// Overwrites values from `at` on, on the device.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the copy cannot be enqueued.
    pub fn overwrite(&mut self, dev: &D, at: usize, from: &View<'_, D>) -> Result<()> {
        let size = size_of::<T>();
        let mut to = self.dev.view_mut();
        dev.copy(from.buffer(), from.offset() * size, to.buffer_mut(), at * size, from.elements() * size)
    }

    /// The values as of the last upload.
    pub fn view(&self) -> View<'_, D> {
        self.dev.rows(0..self.host.len())
    }
}

/// A copy of a device's list on its way to the host.
pub struct Fetched<D: Device, T: Element> {
    landing: D::Landing,
    capacity: usize,
    of: PhantomData<T>,
}

impl<D: Device, T: Element> Fetched<D, T> {
    /// Room for `capacity` values.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the memory is not there.
    pub fn new(dev: &D, capacity: usize) -> Result<Self> {
        Ok(Self { landing: dev.landing(capacity * size_of::<T>())?, capacity, of: PhantomData })
    }

    /// Enqueues the copy of a contiguous view; room grows if it is larger than ever before. Panics if `T` is not the dtype.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the copy cannot be enqueued.
    pub fn start(&mut self, dev: &D, view: &View<'_, D>) -> Result<()> {
        assert!(T::DTYPE == view.dtype() && view.is_contiguous());
        if view.elements() > self.capacity {
            *self = Self::new(dev, view.elements().next_power_of_two())?;
        }
        let size = size_of::<T>();
        dev.fetch(view.buffer(), view.offset() * size, view.elements() * size, &mut self.landing)
    }

    /// Waits for the copy.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when work up to there failed.
    pub fn finish(&mut self, dev: &D) -> Result<&[T]> {
        dev.landed(&mut self.landing).map(bytemuck::cast_slice)
    }
}
