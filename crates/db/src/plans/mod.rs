//! Plans: what the server makes of a statement, what is wrong with it, which statements are slow, and which index would
//! help at what price. Everything here asks on sessions of its own, off the path of any request.
//! It never runs a statement that was not to be run, never logs a value, and builds or drops an index only when told so.
//!
//! | question | answer |
//! |---|---|
//! | how is this statement run, and what is wrong with it | `Db::explain`, [`Explained::findings`] |
//! | which statements are slow | [`SlowLog`], an observer |
//! | which index would pay | [`advise`], or `Db::advise`, which plans on a replica |
//! | build it | [`create_index`], which refuses without [`Approval::Given`] |
//! | does it pay, now that it is used | [`review_indexes`], which takes back what does not, if told so |

mod advice;
mod advise;
mod candidate;
mod catalog;
mod conditions;
mod create;
mod explain;
mod finding;
mod fingerprint;
mod histogram;
mod plan;
mod review;
mod rules;
mod sessions;
mod slow;
mod table;
mod verdict;
mod workload;

pub use advice::{Advice, AdviseOptions, Helped, HypoPg, IndexAdvice, Refusal, Rejected};
pub use advise::advise;
pub use candidate::IndexColumns;
pub use create::{Approval, CreateError, CreateOptions, Created, create_index, sweep_invalid};
pub use explain::{EXPLAIN_TIMEOUT, Explained, Measure, PlanError, explain, explain_generic};
pub use finding::{Evidence, Finding, Thresholds};
pub use fingerprint::Fingerprint;
pub use plan::{Actual, Plan, PlanNode, Spill, TableName};
pub use review::{Review, ReviewError, ReviewOptions, review_indexes};
pub use slow::{SlowLog, SlowLogOptions, SlowStatement};
pub use table::{PartitionFacts, TableFacts};
pub use verdict::{Fate, IndexFigures, Reviewed, Verdict};
pub use workload::{Workload, WorkloadError, WorkloadStatement};
