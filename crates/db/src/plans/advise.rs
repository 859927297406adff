//! Which indexes would pay for a whole workload: each is put before the planner as a hypothetical one (HypoPG), and what
//! it saves over all calls is held against what every written row would cost. Nothing is created. A replica can do it, which
//! plans for itself and has to be told what the primary has counted.
//! Without HypoPG nothing can be weighed: the advice says so, and names the columns that scans throw most rows away by.

use std::collections::{BTreeMap, BTreeSet};

use postgres_types::Type;
use tokio_postgres::Client;

use super::advice::{Advice, AdviseOptions, Helped, HypoPg, IndexAdvice, Refusal, Rejected};
use super::candidate::{IndexColumns, candidates, quoted};
use super::catalog::{ExistingIndex, columns, indexes};
use super::conditions::compared;
use super::explain::{Explained, Generic, Measure, PlanError, begin};
use super::finding::{Evidence, Thresholds};
use super::fingerprint::redacted;
use super::plan::TableName;
use super::table::{TableFacts, table_facts};
use super::workload::{Workload, WorkloadStatement};
use crate::db::Db;
use crate::session::Session;

/// What speaks for one index.
#[derive(Debug, Default)]
struct Support {
    size: u64,
    helps: Vec<Helped>,
}

/// An index as the planner sees it for one statement.
#[derive(Debug)]
struct Tried {
    index: IndexColumns,
    cost: f64,
    size: u64,
}

/// The indexes that are good enough for one statement, the cheapest first; any of them will do.
#[derive(Debug)]
struct Choice {
    text: String,
    calls: u64,
    cost_without: f64,
    tried: Vec<Tried>,
}

struct Advisor<'a> {
    client: &'a Client,
    /// Of the server that counts rows written, if that is another one than the one that plans.
    counting: Option<&'a Client>,
    options: &'a AdviseOptions,
    /// The schema of HypoPG's functions, quoted.
    hypopg: Option<String>,
    choices: Vec<Choice>,
    facts: BTreeMap<TableName, TableFacts>,
    rejected: BTreeMap<IndexColumns, Refusal>,
    unweighed: BTreeSet<IndexColumns>,
}

/// Weighs a workload on `session`, which must not be in a transaction. Statements are planned, none is run; some ten
/// plans for each. If the future is dropped or fails halfway, the session closes.
///
/// # Errors
/// [`PlanError`], when the server fails; a statement that it refuses to plan is told in the advice.
pub async fn advise(
    session: &Session,
    workload: &Workload,
    options: &AdviseOptions,
) -> Result<Advice, PlanError> {
    advise_apart(session, None, workload, options).await
}

impl Db {
    /// As [`advise`], planned by a replica that serves reads, so that the primary is asked for its counters of rows written and
    /// for nothing else; a replica counts none. Without such a replica the primary plans. [`Advice::node`] names
    /// the server: it plans by its own settings. Dials a session to each of the two.
    ///
    /// # Errors
    /// [`PlanError`].
    pub async fn advise(&self, workload: &Workload, options: &AdviseOptions) -> Result<Advice, PlanError> {
        let primary = self.session("advise").await?;
        match self.replica_session("advise").await {
            Ok(Some(replica)) => advise_apart(&replica, Some(&primary), workload, options).await,
            Ok(None) | Err(_) => advise(&primary, workload, options).await,
        }
    }
}

/// Plans on `session`, and asks `counting` for counters if that is another server's.
async fn advise_apart(
    session: &Session,
    counting: Option<&Session>,
    workload: &Workload,
    options: &AdviseOptions,
) -> Result<Advice, PlanError> {
    let guard = session.close_unless_done();
    let client = session.client();
    let (hypopg, schema) = find_hypopg(client).await?;
    let mut advisor = Advisor {
        client,
        counting: counting.map(Session::client),
        options,
        hypopg: schema,
        choices: Vec::new(),
        facts: BTreeMap::new(),
        rejected: BTreeMap::new(),
        unweighed: BTreeSet::new(),
    };
    let (mut skipped, mut planned) = (Vec::new(), 0);
    for statement in workload.foremost() {
        match advisor.consider(statement).await {
            Ok(()) => planned += 1,
            Err(PlanError::Refused(refusal)) if refusal.as_db_error().is_some() => {
                client.batch_execute("ROLLBACK; DEALLOCATE ALL").await?;
                let why = refusal.as_db_error().map_or("", |error| error.message());
                skipped.push(format!("{}: {why}", redacted(&statement.sql)));
            }
            Err(error) => return Err(error),
        }
        advisor.reset().await?;
    }
    guard.done();
    let (indexes, rejected, unweighed) = advisor.judge();
    let node = session.node().clone();
    Ok(Advice { node, hypopg, indexes, rejected, unweighed, skipped, planned })
}

async fn find_hypopg(client: &Client) -> Result<(HypoPg, Option<String>), PlanError> {
    let sql = "SELECT e.extversion, n.nspname::text FROM pg_extension e \
               JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'hypopg'";
    let rows = client.query_typed(sql, &[]).await?;
    let Some(row) = rows.first() else { return Ok((HypoPg::Absent, None)) };
    let schema: String = row.try_get(1)?;
    Ok((HypoPg::Installed { version: row.try_get(0)? }, Some(quoted(&schema))))
}

impl Advisor<'_> {
    async fn consider(&mut self, statement: &WorkloadStatement) -> Result<(), PlanError> {
        begin(self.client, Measure::No).await?;
        // A service may have switched them off for its own connections; a cost of 10^10 would drown all others.
        self.client.batch_execute("SET LOCAL enable_seqscan = on").await?;
        let generic = Generic::prepare(self.client, &statement.sql).await?;
        let plan = generic.plan(self.client).await?;
        if plan.root.cost >= self.options.cost_min {
            let names: BTreeSet<TableName> = plan.nodes().filter_map(|node| node.table.clone()).collect();
            let tables = self.table_facts(&names).await?;
            self.facts.extend(tables.iter().map(|facts| (facts.table.clone(), facts.clone())));
            let explained = Explained { plan, tables };
            let candidates = self.candidates(&explained).await?;
            if self.hypopg.is_some() {
                self.weigh(statement, &generic, explained.plan.root.cost, candidates).await?;
            } else {
                self.note_unweighed(&explained, candidates);
            }
        }
        generic.forget(self.client).await?;
        Ok(self.client.batch_execute("ROLLBACK").await?)
    }

    async fn table_facts(&self, names: &BTreeSet<TableName>) -> Result<Vec<TableFacts>, PlanError> {
        let Some(counting) = self.counting else { return Ok(table_facts(self.client, names).await?) };
        // For the limits that it sets.
        begin(counting, Measure::No).await?;
        let facts = table_facts(counting, names).await;
        counting.batch_execute("ROLLBACK").await?;
        Ok(facts?)
    }

    /// Hypothetical indexes belong to the session, and outlive a transaction.
    async fn reset(&self) -> Result<(), PlanError> {
        match &self.hypopg {
            Some(schema) => Ok(self.client.batch_execute(&format!("SELECT {schema}.hypopg_reset()")).await?),
            None => Ok(()),
        }
    }

    /// What could be tried for a statement; what need not be is noted with its reason.
    async fn candidates(&mut self, explained: &Explained) -> Result<Vec<IndexColumns>, PlanError> {
        let mut found = BTreeSet::new();
        let scans: BTreeSet<(TableName, String)> = explained
            .plan
            .nodes()
            .filter_map(|node| Some((node.table.clone()?, node.alias.clone()?)))
            .filter(|(table, _)| !is_of_the_server(table))
            .collect();
        for (table, alias) in scans {
            let Some(facts) = self.facts.get(&table).cloned() else { continue };
            let columns = columns(self.client, &table).await?;
            let compared = compared(&explained.plan, &alias, &columns);
            let existing = indexes(self.client, &table).await?;
            for candidate in candidates(&table, &compared) {
                match self.needless(&candidate, &facts, &existing) {
                    Some(why) => {
                        self.rejected.insert(candidate, why);
                    }
                    None => {
                        found.insert(candidate);
                    }
                }
            }
        }
        Ok(found.into_iter().collect())
    }

    fn needless(
        &self,
        candidate: &IndexColumns,
        facts: &TableFacts,
        existing: &[ExistingIndex],
    ) -> Option<Refusal> {
        let serves = |index: &&ExistingIndex| index.serves_prefixes && candidate.is_prefix_of(&index.columns);
        if let Some(index) = existing.iter().find(serves) {
            return Some(Refusal::Indexed { by: index.name.clone() });
        }
        if !facts.is_plain {
            return Some(Refusal::Partitioned);
        }
        let rows = facts.rows();
        (rows < self.options.rows_min).then_some(Refusal::SmallTable { rows })
    }

    /// Tries each alone, and keeps those that are good enough for this statement: the best single column, or the pairs whose
    /// second column earns its place over it.
    async fn weigh(
        &mut self,
        statement: &WorkloadStatement,
        generic: &Generic,
        cost_without: f64,
        candidates: Vec<IndexColumns>,
    ) -> Result<(), PlanError> {
        let (mut singles, mut pairs) = (Vec::new(), Vec::new());
        for candidate in candidates {
            let list = if candidate.columns.len() > 1 { &mut pairs } else { &mut singles };
            list.push(self.try_out(generic, candidate).await?);
        }
        let share = self.options.cost_share_max;
        singles.retain(|tried: &Tried| tried.cost <= cost_without * share);
        singles.sort_by(|one, other| one.cost.total_cmp(&other.cost));
        singles.truncate(1);
        let bar = singles.first().map_or(cost_without, |single| single.cost);
        // Below the least cost that is looked at, the single one has done all there is to do.
        pairs.retain(|tried| tried.cost <= bar * share && bar >= self.options.cost_min);
        pairs.sort_by(|one, other| one.cost.total_cmp(&other.cost));
        let tried = if pairs.is_empty() { singles } else { pairs };
        if !tried.is_empty() {
            let (text, calls) = (redacted(&statement.sql), statement.calls);
            self.choices.push(Choice { text, calls, cost_without, tried });
        }
        Ok(())
    }

    async fn try_out(&self, generic: &Generic, index: IndexColumns) -> Result<Tried, PlanError> {
        let schema = self.hypopg.as_deref().unwrap_or_default();
        self.reset().await?;
        let sql = format!(
            "SELECT {schema}.hypopg_relation_size(made.indexrelid) FROM {schema}.hypopg_create_index($1) AS made"
        );
        let row = self.client.query_typed_one(&sql, &[(&index.hypothetical_sql(), Type::TEXT)]).await?;
        let size: i64 = row.try_get(0)?;
        let cost = generic.plan(self.client).await?.root.cost;
        Ok(Tried { index, cost, size: u64::try_from(size).unwrap_or(0) })
    }

    fn note_unweighed(&mut self, explained: &Explained, candidates: Vec<IndexColumns>) {
        let scanned: BTreeSet<TableName> = explained
            .findings(&Thresholds::default())
            .into_iter()
            .filter_map(|finding| match finding.evidence {
                Evidence::SequentialScan { table, .. } => Some(table),
                _ => None,
            })
            .collect();
        let of_scans =
            candidates.into_iter().filter(|one| one.columns.len() == 1 && scanned.contains(&one.table));
        self.unweighed.extend(of_scans);
    }

    fn judge(mut self) -> (Vec<IndexAdvice>, Vec<Rejected>, Vec<IndexColumns>) {
        let support = support(std::mem::take(&mut self.choices));
        let mut support: Vec<(IndexColumns, Support)> = support.into_iter().collect();
        // The longer ones first: what is advised of them covers the shorter ones.
        support.sort_by_key(|(index, _)| std::cmp::Reverse(index.columns.len()));
        let mut advised: Vec<IndexAdvice> = Vec::new();
        for (index, support) in support {
            let longer = |other: &&IndexColumns| {
                other.table == index.table
                    && other.columns.len() > index.columns.len()
                    && index.is_prefix_of(&other.columns)
            };
            let write_cost = self.facts.get(&index.table).map_or(0.0, |facts| facts.rows_written)
                * self.options.write_cost;
            let saves = support.helps.iter().map(Helped::saves).sum();
            let why = match advised.iter().map(|advice| &advice.index).find(longer) {
                Some(by) => Some(Refusal::Covered { by: by.clone() }),
                None => self.too_dear(&index, &support, saves, write_cost),
            };
            match why {
                Some(why) => {
                    self.rejected.insert(index, why);
                }
                None => {
                    let Support { size, helps } = support;
                    advised.push(IndexAdvice { index, size, helps, saves, write_cost });
                }
            }
        }
        advised.sort_by(|one, other| other.saves.total_cmp(&one.saves));
        let rejected = self.rejected.into_iter().map(|(index, why)| Rejected { index, why }).collect();
        (advised, rejected, self.unweighed.into_iter().collect())
    }

    fn too_dear(
        &self,
        index: &IndexColumns,
        support: &Support,
        saves: f64,
        write_cost: f64,
    ) -> Option<Refusal> {
        let indexes = self.facts.get(&index.table).map_or(0, |facts| facts.indexes);
        if indexes >= self.options.indexes_max {
            return Some(Refusal::ManyIndexes { indexes });
        }
        if support.size > self.options.size_max {
            return Some(Refusal::Large { size: support.size });
        }
        (saves < write_cost * self.options.benefit_factor).then_some(Refusal::Writes { saves, write_cost })
    }
}

/// One index for each statement; of pairs, one that also spares another statement its single column.
fn support(choices: Vec<Choice>) -> BTreeMap<IndexColumns, Support> {
    let singles: BTreeSet<IndexColumns> = choices
        .iter()
        .filter_map(|choice| Some(choice.tried.first()?.index.clone()))
        .filter(|index| index.columns.len() == 1)
        .collect();
    let spares = |index: &IndexColumns| {
        singles.iter().any(|single| single.table == index.table && single.is_prefix_of(&index.columns))
    };
    let mut support = BTreeMap::<IndexColumns, Support>::new();
    for Choice { text, calls, cost_without, mut tried } in choices {
        let place = tried.iter().position(|one| spares(&one.index)).unwrap_or(0);
        let Tried { index, cost, size } = tried.swap_remove(place);
        let entry = support.entry(index).or_default();
        entry.size = size;
        entry.helps.push(Helped { text, calls, cost_without, cost_with: cost });
    }
    support
}

fn is_of_the_server(table: &TableName) -> bool {
    table.schema.starts_with("pg_") || table.schema == "information_schema"
}
