//! Interleaved measuring: in every round each contender runs once, and the order turns from round to round, so that a
//! machine that slows down, and tables that grow, hit all sides alike. Computes no verdict; called by the suites.

use anyhow::Context as _;
use futures_util::future::BoxFuture;

use crate::report::Summary;

/// One side of a comparison, at one load.
pub trait Contender: Send {
    /// For progress lines and errors.
    fn name(&self) -> String;
    /// Brings the ground into the state in which each contender finds it. Not measured.
    fn prepare(&mut self) -> BoxFuture<'_, anyhow::Result<()>>;
    /// Warms up, measures once, and gives the figure in the contender's unit.
    fn measure(&mut self, round: u64) -> BoxFuture<'_, anyhow::Result<f64>>;
}

/// Measures every contender `rounds` times in turn. One summary per contender, in the given order.
///
/// # Errors
/// The first contender that fails ends it: half a comparison is none.
pub async fn interleave(
    rounds: u64,
    contenders: &mut [Box<dyn Contender + '_>],
    progress: &mut (dyn FnMut(&str) + Send),
) -> anyhow::Result<Vec<Summary>> {
    let mut summaries: Vec<Summary> = contenders.iter().map(|_| Summary { runs: Vec::new() }).collect();
    for round in 0..rounds {
        for index in order(round, contenders.len()) {
            let contender = &mut contenders[index];
            let name = contender.name();
            contender.prepare().await.with_context(|| format!("prepare {name}"))?;
            let figure = contender.measure(round).await.with_context(|| format!("measure {name}"))?;
            progress(&format!("round {}/{rounds}  {name}: {figure:.1}", round + 1));
            summaries[index].runs.push(figure);
        }
    }
    Ok(summaries)
}

/// Positions in the order of one round: each round starts one later.
fn order(round: u64, length: usize) -> impl Iterator<Item = usize> {
    let length_wide = u64::try_from(length.max(1)).expect("a list of contenders is short");
    let start = usize::try_from(round % length_wide).expect("smaller than the length");
    (0..length).map(move |step| (start + step) % length)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    struct Recorder {
        name: &'static str,
        log: Arc<Mutex<Vec<String>>>,
    }

    impl Contender for Recorder {
        fn name(&self) -> String {
            self.name.to_owned()
        }
        fn prepare(&mut self) -> BoxFuture<'_, anyhow::Result<()>> {
            self.log.lock().unwrap().push(format!("prepare {}", self.name));
            Box::pin(async { Ok(()) })
        }
        fn measure(&mut self, round: u64) -> BoxFuture<'_, anyhow::Result<f64>> {
            self.log.lock().unwrap().push(format!("measure {}", self.name));
            let fails = self.name == "broken";
            Box::pin(async move {
                anyhow::ensure!(!fails, "out of order");
                Ok(f64::from(u32::try_from(round).unwrap()))
            })
        }
    }

    #[tokio::test]
    async fn contenders_take_turns_and_the_first_place_moves() {
        let log = Arc::new(Mutex::new(Vec::new()));
        let recorder = |name| Box::new(Recorder { name, log: Arc::clone(&log) }) as Box<dyn Contender>;
        let mut contenders = [recorder("a"), recorder("b")];
        let summaries = interleave(2, &mut contenders, &mut |_| {}).await.unwrap();
        let expected = [
            "prepare a",
            "measure a",
            "prepare b",
            "measure b",
            "prepare b",
            "measure b",
            "prepare a",
            "measure a",
        ];
        assert_eq!(*log.lock().unwrap(), expected);
        for summary in summaries {
            assert_eq!(summary.runs, [0.0, 1.0]);
        }
    }

    #[tokio::test]
    async fn failure_ends_the_comparison_and_names_who() {
        let log = Arc::new(Mutex::new(Vec::new()));
        let mut contenders: [Box<dyn Contender>; 1] = [Box::new(Recorder { name: "broken", log })];
        let error = interleave(3, &mut contenders, &mut |_| {}).await.unwrap_err();
        assert_eq!(format!("{error:#}"), "measure broken: out of order");
    }
}
