//! `--watch`: a saved kernel file is compiled and swapped in between steps, into recorded steps too; one that does not
//! compile changes nothing but what is printed.

use std::path::Path;

use lathe::config::{EngineConfig, SamplingParams, StorageType};
use lathe::device::{Cuda, Device, cuda::source};
use lathe::llm::Prompt;

use crate::support::{engine_on, golden, softcuda};

#[test]
fn a_saved_kernel_is_swapped_in_and_a_broken_one_is_not() {
    softcuda();
    let (model, expected) = golden("qwen3");
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in source::EMBEDDED {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let dev = Cuda::with(0, source::Sources::new(Some(folder.path().into())), true).unwrap();
    let config = EngineConfig {
        model: Some(model.to_str().unwrap().into()),
        device: "cuda".into(),
        dtype: Some(StorageType::F32),
        max_num_batched_tokens: 64,
        max_num_seqs: 2,
        max_model_len: 64,
        num_kvcache_blocks: Some(4),
        enable_prefix_caching: false,
        ..EngineConfig::default()
    };
    let mut llm = engine_on(&dev, config);
    // Logits, so to say, of a prompt's last position and of two decodes, which are recorded steps.
    let mut run = || {
        let params = SamplingParams { max_tokens: 3, logprobs: Some(320), ..SamplingParams::greedy() };
        let prompt = Prompt::Tokens(expected.prompts[1].clone());
        let output = llm.generate(&[prompt], &[params], false).unwrap().remove(0);
        (output.token_ids, output.logprobs)
    };
    let before = run();
    assert_eq!(before.0, expected.greedy[1][..3]);
    let compiled = dev.compiler().compiled();
    assert_eq!(dev.reload().unwrap(), [""; 0], "nothing was saved");

    let file = folder.path().join("activation.cu");
    let text = std::fs::read_to_string(&file).unwrap();
    let silu = "return sigmoid_times(x, x);";
    assert!(text.contains(silu), "{text}");
    save(&file, &text.replace(silu, "return 2.0f * sigmoid_times(x, x);"));
    let doubled = run();
    assert_ne!(doubled.1, before.1);
    assert!(dev.compiler().compiled() <= compiled + 1, "only the program of the saved file");

    // Nothing of a file that does not compile is taken up, however often it is saved.
    let line = 1 + text.lines().position(|l| l.contains(silu)).unwrap();
    save(&file, &text.replace(silu, "return twice(x);"));
    let error = dev.reload().unwrap_err().to_string();
    let place = format!("{}({line}): error: identifier \"twice\" is undefined", file.display());
    assert!(error.contains(&place), "{error}");
    assert_eq!(run(), doubled);
    save(&file, &text.replace(silu, "return thrice(x);"));
    assert_eq!(run(), doubled, "the engine itself goes on");

    save(&file, &text);
    assert_eq!(run(), before);
    let header = folder.path().join("common.cuh");
    // Text that no cache has.
    save(&header, &format!("{}\n// {}\n", std::fs::read_to_string(&header).unwrap(), header.display()));
    let compiled = dev.compiler().compiled();
    assert_eq!(run(), before);
    let programs = dev.programs().len();
    assert!(programs >= 8 && dev.compiler().compiled() >= compiled + programs, "all that include the header");
}

/// Writes a file, as late by the clock of its file system as anybody could tell.
fn save(path: &Path, text: &str) {
    let before = path.metadata().unwrap().modified().unwrap();
    std::fs::write(path, text).unwrap();
    assert!(path.metadata().unwrap().modified().unwrap() > before, "saved at the same time as before");
}
