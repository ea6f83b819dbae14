//! A list that is built on the host and read on the device.

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

    /// The values as of the last upload.
    pub fn view(&self) -> View<'_, D> {
        self.dev.rows(0..self.host.len())
    }
}
