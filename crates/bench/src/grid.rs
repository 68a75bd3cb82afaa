//! The best of a grid of two settings, which grows around its best point until that has no better neighbour.

use anyhow::{Context, Result};
use std::collections::BTreeMap;

/// How often each of the two settings was doubled (or, below zero, halved).
pub(crate) type Point = (i32, i32);

/// What came of a search.
pub(crate) struct Found {
    pub(crate) best: Point,
    /// Points that were measured.
    pub(crate) measured: usize,
    /// Whether each neighbour that may be was measured, and is worse.
    pub(crate) inside: bool,
}

/// Measures `start`, then the neighbours of the best point as long as some are not measured, at most `growths` times.
pub(crate) fn search(
    start: &[Point],
    growths: usize,
    may_be: impl Fn(Point) -> bool,
    mut measure: impl FnMut(&[Point]) -> Result<Vec<f64>>,
) -> Result<Found> {
    let (mut losses, mut wanted) = (BTreeMap::<Point, f64>::new(), start.to_vec());
    let mut grown = 0;
    loop {
        let measured = measure(&wanted)?;
        losses.extend(wanted.iter().copied().zip(measured));
        let best = losses.iter().min_by(|a, b| a.1.total_cmp(b.1)).context("an empty grid")?;
        let best = *best.0;
        let missing = |point: &Point| may_be(*point) && !losses.contains_key(point);
        wanted = around(best).into_iter().filter(missing).collect();
        if wanted.is_empty() || grown == growths {
            return Ok(Found { best, measured: losses.len(), inside: wanted.is_empty() });
        }
        grown += 1;
    }
}

fn around((a, b): Point) -> [Point; 4] {
    [(a - 1, b), (a + 1, b), (a, b - 1), (a, b + 1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bowl(at: Point) -> impl FnMut(&[Point]) -> Result<Vec<f64>> {
        let loss = move |point: &Point| f64::from((point.0 - at.0).pow(2) + (point.1 - at.1).pow(2));
        move |points: &[Point]| Ok(points.iter().map(loss).collect())
    }

    #[test]
    fn a_grid_grows_until_its_best_lies_inside() {
        let start = [(0, 0), (1, 0), (0, 1), (1, 1)];
        let found = search(&start, 9, |_| true, bowl((-2, 3))).expect("found");
        assert_eq!((found.best, found.inside), ((-2, 3), true));
        assert!(found.measured > start.len());
    }

    #[test]
    fn a_grid_ends_at_what_may_be_or_says_that_it_did_not_end() {
        let found = search(&[(0, 0)], 9, |point| point.0 >= 0, bowl((-2, 0))).expect("found");
        assert_eq!((found.best, found.inside), ((0, 0), true), "there is nothing smaller");
        let found = search(&[(0, 0)], 1, |_| true, bowl((5, 0))).expect("found");
        assert_eq!((found.best, found.inside), ((1, 0), false));
    }
}
