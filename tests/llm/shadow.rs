//! Shadow mode names the first call of a live model whose results are wrong.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use lathe::{
    config::EngineConfig,
    device::{Cpu, CpuBuffer},
    kernels::{Attention, AttentionArgs, AttentionSpec, Kernel, Registry, Slot, Unsupported},
    lab::shadow::{Log, shadow},
    open,
};

/// Right but for one call.
struct WrongOnce {
    right: Slot<Attention, Cpu>,
    calls: AtomicUsize,
    wrong: usize,
}

impl Kernel<Attention, Cpu> for WrongOnce {
    fn name(&self) -> &'static str {
        "wrong_once"
    }

    fn about(&self) -> &'static str {
        "right but for one call"
    }

    fn supports(&self, spec: &AttentionSpec) -> Result<(), Unsupported> {
        self.right.supports(spec)
    }

    fn scratch(&self, args: &AttentionArgs<'_, Cpu>) -> usize {
        self.right.scratch(args)
    }

    fn launch(&self, dev: &Cpu, mut a: AttentionArgs<'_, Cpu>, scratch: &mut CpuBuffer) -> lathe::Result<()> {
        if self.calls.fetch_add(1, Relaxed) == self.wrong {
            a.out.slice_mut::<half::bf16>().fill(half::bf16::ONE);
            return Ok(());
        }
        self.right.launch(dev, a, scratch)
    }
}

#[test]
fn the_first_wrong_layer_is_named() {
    let config = EngineConfig { max_model_len: 64, num_kvcache_blocks: Some(1), ..EngineConfig::default() };
    let files = open::files(&config).unwrap();
    let layers = files.config.layers.len();
    for (wrong, layer) in [(usize::MAX, None), (2, Some(2)), (layers + 1, Some(1))] {
        let registry = Registry::cpu();
        let kernels = || registry.select(&config.kernels, false).unwrap();
        let mut other = kernels();
        let right = Arc::clone(&registry.attention[0]);
        other.attention_prefill = Arc::new(WrongOnce { right, calls: AtomicUsize::new(0), wrong });
        let log = Arc::new(Mutex::new(Log::default()));
        let kernels = shadow(kernels(), &other, &log);
        let mut runner = open::runner_with(&Cpu::new(Some(1)), kernels, &config, &files).unwrap();
        // Two passes over the model, of one step each. The shadow's results never reach the model.
        let first = runner.score(&[5, 6, 7, 8], 4).unwrap();
        log.lock().unwrap().next_pass();
        assert_eq!(runner.score(&[5, 6, 7, 8], 4).unwrap(), first);
        let log = log.lock().unwrap();
        assert_eq!(log.calls().len(), 2 * layers);
        let found = log.first_beyond(layers, |_| 1).map(|(call, layer)| (call.slot, call.pass, layer));
        assert_eq!(found, layer.map(|layer| ("attention.prefill", wrong / layers, Some(layer))));
    }
}
