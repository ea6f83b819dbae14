//! Where in an output the errors are.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The errors of an output over its rows and columns: of `[tokens, heads, dim]` the tokens and heads, of a cache its
/// slots and heads, else the last two extents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ErrorMap {
    /// The tensor.
    pub tensor: String,
    /// The case; null until the check says it.
    pub case: Value,
    /// What a row is, and how many there are.
    pub rows: (String, usize),
    /// What a column is, and how many there are.
    pub columns: (String, usize),
    /// The largest error in each cell beyond half a unit in the last place, as a share of its budget; beyond 1 it is
    /// wrong. A cell stands for several rows and columns where there are more than 32.
    pub cells: Vec<Vec<f32>>,
}

/// Most cells in a row or column.
const CELLS: usize = 32;
/// In place of what is no number; JSON has no infinity.
const WORST: f32 = 1e6;

impl ErrorMap {
    /// Of a tensor's `shape`, with nothing in it yet.
    pub(super) fn new(tensor: &str, shape: &[usize]) -> Self {
        let (names, [rows, columns]) = match *shape {
            [] => (["row", "column"], [1, 1]),
            [n] => (["row", "column"], [1, n]),
            [rows, columns] => (["row", "column"], [rows, columns]),
            [tokens, heads, _] => (["token", "head"], [tokens, heads]),
            [ref slots @ .., heads, _] => (["slot of the cache", "head"], [slots.iter().product(), heads]),
        };
        let [rows_name, columns_name] = names.map(String::from);
        Self {
            tensor: tensor.into(),
            case: Value::Null,
            rows: (rows_name, rows),
            columns: (columns_name, columns),
            cells: vec![vec![0.0; columns.min(CELLS)]; rows.min(CELLS)],
        }
    }

    /// Takes up the error of element `at`, counted row after row, of a tensor of `elements`.
    pub(super) fn add(&mut self, at: usize, elements: usize, share: f64) {
        let (rows, columns) = (self.rows.1, self.columns.1);
        let inner = elements / (rows * columns).max(1);
        let (row, column) = (at / inner / columns, at / inner % columns);
        let cell = &mut self.cells[row * rows.min(CELLS) / rows][column * columns.min(CELLS) / columns];
        let share = if share.is_nan() { WORST } else { (share as f32).min(WORST) };
        *cell = cell.max(share);
    }

    /// Elements that it stands for.
    pub(super) fn size(&self) -> usize {
        self.rows.1 * self.columns.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_fall_into_their_cells() {
        let mut map = ErrorMap::new("out", &[3, 2, 4]);
        map.add(0, 24, 0.25);
        map.add(23, 24, f64::INFINITY);
        map.add(9, 24, 0.5);
        map.add(8, 24, 0.125);
        assert_eq!(map.cells, [[0.25, 0.0], [0.5, 0.0], [0.0, WORST]]);
        assert_eq!((map.rows.0.as_str(), map.columns.1), ("token", 2));

        let mut map = ErrorMap::new("cache", &[4, 16, 2, 8]);
        assert_eq!((map.cells.len(), map.rows.1, map.size()), (32, 64, 128));
        map.add(63 * 16 + 8, 64 * 16, 0.75);
        assert_eq!(map.cells[31], [0.0, 0.75]);
        assert_eq!(ErrorMap::new("out", &[5]).cells, [[0.0; 5]]);
    }
}
