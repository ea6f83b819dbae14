//! What the kernels move on softcuda stays within its bounds.

use std::{fs, path::Path};

use lathe::lab::count::{Ask, Bounds, Count, Extent, STEP, asks};

use super::command::lathe;

/// A row without its figures.
fn row(kernel: &str, shape: &str, bounds: &Bounds) -> String {
    format!("{kernel}, {shape}: {bounds}")
}

#[test]
fn counts_stay_within_their_bounds() {
    let output = lathe(&["count", "--small", "--json"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let counts: Vec<Count> = serde_json::from_slice(&output.stdout).unwrap();
    let wanted = asks(Extent::Small);
    assert_eq!(counts.len(), wanted.len());
    for (count, Ask { kernel, bounds, .. }) in counts.iter().zip(&wanted) {
        assert_eq!((&count.kernel, &count.bounds), (kernel, bounds));
        assert_eq!(count.missed(), Vec::<String>::new(), "{kernel}, {}", count.shape);
        // A kernel that reads less than the least was not counted.
        assert!(count.moved() > 0.99 && count.requested() > 0.99, "{kernel}: {}", count.moved());
    }
}

#[test]
fn the_table_in_docs_has_these_rows_and_all_bounds_hold() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/results/counted.json");
    let counts: Vec<Count> = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let (step, counts) = counts.split_last().unwrap();
    assert_eq!(step.bounds, STEP);
    let recorded: Vec<String> = counts.iter().map(|c| row(&c.kernel, &c.shape, &c.bounds)).collect();
    let wanted: Vec<String> =
        asks(Extent::Full).iter().map(|a| row(&a.kernel, &a.shape, &a.bounds)).collect();
    assert_eq!(recorded, wanted, "docs/results/counted.json is out of date: cargo xtask counts");
    for count in counts.iter().chain([step]) {
        assert_eq!(count.missed(), Vec::<String>::new(), "{}, {}", count.kernel, count.shape);
    }
}
