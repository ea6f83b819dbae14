//! From a configuration to a model on a device: the one place that tells devices apart.

use crate::{
    config::{EngineConfig, StorageType},
    device::{Cpu, Cuda, DType, Device, cuda::Target},
    engine::{Executor, runner::Runner},
    error::{Error, Result},
    kernels::{KernelSet, Registry, Row},
    model::{Decoder, ModelFiles, decoder::dtype_of},
};

/// A model on a device, whichever: what the engine and the tools need of it.
pub trait ModelRunner: Executor {
    /// Teacher-forced logits; see [`Runner::score`].
    ///
    /// # Errors
    /// See there.
    fn score(&mut self, tokens: &[u32], chunk: usize) -> Result<Vec<f32>>;
    /// Blocks of the KV cache.
    fn num_blocks(&self) -> usize;
    /// Bytes of weights that every decode step reads.
    fn step_bytes(&self) -> usize;
    /// The device and the storage dtype, to print.
    fn describe(&self) -> String;
}

impl<D: Device> ModelRunner for Runner<D> {
    fn score(&mut self, tokens: &[u32], chunk: usize) -> Result<Vec<f32>> {
        Self::score(self, tokens, chunk)
    }

    fn num_blocks(&self) -> usize {
        Self::num_blocks(self)
    }

    fn step_bytes(&self) -> usize {
        self.decoder().step_bytes()
    }

    fn describe(&self) -> String {
        format!("{}, {}", self.device().describe(), self.decoder().dtype())
    }
}

/// Opens what `config.model` names: a folder, a hub name, or the model in the binary.
///
/// # Errors
/// As [`ModelFiles::find`].
pub fn files(config: &EngineConfig) -> Result<ModelFiles> {
    match &config.model {
        Some(model) => ModelFiles::find(model),
        None => ModelFiles::open(crate::shipped::source()),
    }
}

/// Something to do on a device with its kernels, whichever it is.
pub trait OnDevice {
    /// What comes of it.
    type Out;
    /// Does it.
    ///
    /// # Errors
    /// Its own.
    fn run<D: Device>(self, dev: &D, registry: &Registry<D>) -> Result<Self::Out>;
}

/// Does `work` on `config.device` with all kernels of this crate.
///
/// # Errors
/// [`Error::Config`] or [`Error::UnknownName`] for a device that does not exist, and the work's own.
pub fn on_device<W: OnDevice>(config: &EngineConfig, work: W) -> Result<W::Out> {
    match config.device.as_str() {
        "cpu" if config.tensor_parallel_size > 1 => {
            Err(Error::config("tensor_parallel_size", config.tensor_parallel_size, "1 on the cpu"))
        }
        "cpu" => work.run(&Cpu::new(config.threads), &Registry::cpu()),
        "cuda" if config.tensor_parallel_size > 1 => {
            Err(Error::config("tensor_parallel_size", config.tensor_parallel_size, "1: one GPU for now"))
        }
        "cuda" => {
            let dev = Cuda::open(0, config.watch)?;
            work.run(&dev, &Registry::cuda(dev.target()))
        }
        other => {
            let kind = "device".into();
            Err(Error::UnknownName { kind, name: other.into(), known: "cpu, cuda".into() })
        }
    }
}

/// Puts the model on `config.device` with the kernels that `config.kernels` names.
///
/// # Errors
/// [`Error::Config`] or [`Error::UnknownName`] for a choice that does not exist, and what [`Runner::new`] reports.
pub fn runner(config: &EngineConfig, files: &ModelFiles) -> Result<Box<dyn ModelRunner>> {
    struct Open<'a>(&'a EngineConfig, &'a ModelFiles);
    impl OnDevice for Open<'_> {
        type Out = Box<dyn ModelRunner>;
        fn run<D: Device>(self, dev: &D, registry: &Registry<D>) -> Result<Self::Out> {
            runner_on(dev, registry, self.0, self.1)
        }
    }
    on_device(config, Open(config, files))
}

/// As [`runner`], on a device and with kernels of the caller's: the way in for experiments.
///
/// # Errors
/// As [`runner`].
pub fn runner_on<D: Device>(
    dev: &D,
    registry: &Registry<D>,
    config: &EngineConfig,
    files: &ModelFiles,
) -> Result<Box<dyn ModelRunner>> {
    runner_with(dev, registry.select(&config.kernels, config.deterministic)?, config, files)
}

/// As [`runner_on`], with the kernels already chosen.
///
/// # Errors
/// As [`runner`].
pub fn runner_with<D: Device>(
    dev: &D,
    kernels: KernelSet<D>,
    config: &EngineConfig,
    files: &ModelFiles,
) -> Result<Box<dyn ModelRunner>> {
    config.validate()?;
    let dtype = match config.dtype {
        Some(StorageType::F32) => DType::F32,
        Some(StorageType::Bf16) => DType::Bf16,
        Some(StorageType::F16) => DType::F16,
        None => dtype_of(files.checkpoint_dtype()?),
    };
    let strips = kernels.read_strips(dev, dtype);
    let decoder = Decoder::load(dev, &files.config, &files.weights, dtype, strips, config.max_model_len)?;
    Ok(Box::new(Runner::new(dev, kernels, decoder, config)?))
}

/// The kernels of `config.device`, and which of them `config.kernels` chooses.
///
/// # Errors
/// As [`runner`], without a model.
pub fn kernel_table(config: &EngineConfig) -> Result<Vec<Row>> {
    struct List<'a>(&'a EngineConfig);
    impl OnDevice for List<'_> {
        type Out = Vec<Row>;
        fn run<D: Device>(self, _: &D, registry: &Registry<D>) -> Result<Vec<Row>> {
            Ok(registry.rows(&registry.select(&self.0.kernels, self.0.deterministic)?))
        }
    }
    if config.device == "cuda" && Cuda::open(0, false).is_err() {
        // Without a GPU: what there is for the newest kind.
        let registry = Registry::cuda(Target { capability: (9, 0), ptx: false });
        return Ok(registry.rows(&registry.select(&config.kernels, config.deterministic)?));
    }
    on_device(config, List(config))
}
