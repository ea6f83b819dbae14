//! A step in which sequences decode allocates nothing.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use lathe::Result;
use lathe::config::{EngineConfig, SamplingParams};
use lathe::engine::{Batch, Engine, Executor, RequestOptions, Sampled, StepResult, Vocabulary, policies};

/// The system's allocator, counting.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: the caller's contract is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: `ptr` came from `System.alloc` with this layout.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

struct Null;

impl Executor for Null {
    fn execute(&mut self, batch: &Batch<'_>, out: &mut StepResult) -> Result<()> {
        out.sampled.extend(batch.items.iter().filter(|item| item.sample).map(|_| Sampled::Token(7)));
        Ok(())
    }
}

#[test]
fn decoding_allocates_nothing() {
    for policy in ["chunked", "fcfs"] {
        let config =
            EngineConfig { num_kvcache_blocks: Some(400), kvcache_block_size: 16, ..EngineConfig::default() };
        let vocabulary = Vocabulary { size: 100, eos_token_ids: vec![0] };
        let scheduler = policies::by_name(policy).unwrap();
        let mut engine = Engine::new(&config, vocabulary, scheduler, Box::new(Null)).unwrap();
        let params = Arc::new(SamplingParams { max_tokens: 200, ..SamplingParams::default() });
        for len in 1..=20 {
            engine.add_request(&vec![1; len], params.clone(), RequestOptions::default()).unwrap();
        }
        // The prompts, and one step in which the buffers find their sizes.
        while engine.step().unwrap().len() < 20 {}
        engine.step().unwrap();
        let before = ALLOCATIONS.load(Relaxed);
        assert!(before > 0, "the counter counts");
        for _ in 0..190 {
            assert_eq!(engine.step().unwrap().len(), 20);
        }
        assert_eq!(ALLOCATIONS.load(Relaxed) - before, 0, "{policy}");
    }
}
