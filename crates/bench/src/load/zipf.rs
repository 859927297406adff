//! Zipf's law over ranks: rank k is drawn in proportion to 1 / k^s. By binary search in the cumulative weights, which is
//! exact and costs eight bytes per rank.

use rand::{Rng, RngExt};

/// A sampler of ranks, 0 being the commonest.
#[derive(Clone, Debug)]
pub struct Zipf {
    /// Ascending; the last one is the total.
    cumulative: Vec<f64>,
}

impl Zipf {
    /// # Panics
    /// Without ranks.
    #[must_use]
    pub fn new(ranks: usize, exponent: f64) -> Self {
        assert!(ranks > 0, "there must be something to draw");
        let mut total = 0.0;
        let mut rank = 0.0_f64;
        let cumulative = (0..ranks).map(|_| {
            rank += 1.0;
            total += rank.powf(-exponent);
            total
        });
        Self { cumulative: cumulative.collect() }
    }

    /// Draws one rank.
    pub fn draw(&self, random: &mut impl Rng) -> usize {
        let total = self.cumulative.last().copied().unwrap_or(0.0);
        let point = random.random::<f64>() * total;
        let rank = self.cumulative.partition_point(|cumulative| *cumulative <= point);
        rank.min(self.cumulative.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    fn counts(ranks: usize, exponent: f64, draws: usize) -> Vec<f64> {
        let zipf = Zipf::new(ranks, exponent);
        let mut random = StdRng::seed_from_u64(11);
        let mut counts = vec![0.0; ranks];
        for _ in 0..draws {
            counts[zipf.draw(&mut random)] += 1.0;
        }
        counts
    }

    #[test]
    fn frequencies_follow_the_law() {
        let counts = counts(100, 1.0, 200_000);
        for rank in [1_u8, 3, 9] {
            let (ratio, expected) = (counts[0] / counts[usize::from(rank)], f64::from(rank) + 1.0);
            assert!((ratio / expected - 1.0).abs() < 0.1, "rank {rank}: {ratio}, expected {expected}");
        }
    }

    #[test]
    fn exponent_zero_is_uniform_and_every_rank_is_drawn() {
        let counts = counts(10, 0.0, 100_000);
        assert!(counts.iter().all(|count| (count / 10_000.0 - 1.0).abs() < 0.1), "{counts:?}");
        assert_eq!(Zipf::new(1, 1.0).draw(&mut StdRng::seed_from_u64(1)), 0);
    }
}
