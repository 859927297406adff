//! In which order views are refreshed: whatever a view is made from comes before it. Refuses cycles by name. Pure.

use std::collections::HashMap;

use super::View;
use super::error::ViewError;

/// How far the walk has come with a view.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    Unseen,
    /// On the path from the view that the walk began with.
    Open,
    Done,
}

struct Walk<'a> {
    views: &'a [View],
    places: HashMap<&'a str, usize>,
    marks: Vec<Mark>,
    path: Vec<usize>,
    sorted: Vec<usize>,
}

/// The places of `views`, each after those it is made from; otherwise as they were given.
pub(super) fn sort(views: &[View]) -> Result<Vec<usize>, ViewError> {
    let mut places = HashMap::with_capacity(views.len());
    for (place, view) in views.iter().enumerate() {
        if places.insert(view.name.as_str(), place).is_some() {
            return Err(ViewError::Twice { view: view.name.clone() });
        }
    }
    let marks = vec![Mark::Unseen; views.len()];
    let mut walk = Walk { views, places, marks, path: Vec::new(), sorted: Vec::new() };
    for place in 0..views.len() {
        walk.visit(place)?;
    }
    Ok(walk.sorted)
}

impl Walk<'_> {
    /// Recurses as deep as views are made from each other, of which there are `VIEWS_MAX` at most.
    fn visit(&mut self, place: usize) -> Result<(), ViewError> {
        match self.marks[place] {
            Mark::Done => return Ok(()),
            Mark::Open => return Err(self.cycle(place)),
            Mark::Unseen => {}
        }
        self.marks[place] = Mark::Open;
        self.path.push(place);
        let view = &self.views[place];
        for source in &view.made_from {
            let Some(&source) = self.places.get(source.as_str()) else {
                return Err(ViewError::UnknownSource {
                    view: view.name.clone(),
                    source_view: source.clone(),
                });
            };
            self.visit(source)?;
        }
        self.path.pop();
        self.marks[place] = Mark::Done;
        self.sorted.push(place);
        Ok(())
    }

    fn cycle(&self, again: usize) -> ViewError {
        let begins = self.path.iter().position(|place| *place == again).unwrap_or(0);
        let round = self.path[begins..].iter().chain([&again]);
        ViewError::Cycle { views: round.map(|place| self.views[*place].name.clone()).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Refresh, When};
    use super::*;

    /// `a<bc` is the view `a`, made from `b` and `c`.
    fn check(views: &str, expected: Result<&str, &str>) {
        let views: Vec<View> = views.split_whitespace().map(view).collect();
        let sorted = sort(&views).map_err(|error| error.to_string());
        let sorted =
            sorted.map(|places| places.iter().map(|place| views[*place].name.as_str()).collect::<String>());
        assert_eq!(sorted, expected.map(str::to_owned).map_err(str::to_owned));
    }

    fn view(text: &str) -> View {
        let (name, sources) = text.split_once('<').unwrap_or((text, ""));
        let mut view = View::new(name, Refresh::Plain, When::OnDemand);
        view.made_from = sources.chars().map(String::from).collect();
        view
    }

    #[test]
    fn each_view_comes_once_and_after_what_it_is_made_from() {
        check("", Ok(""));
        check("a b c", Ok("abc"));
        check("d<bc b<a c<a a", Ok("abcd"));
        check("c<b b<a a", Ok("abc"));
    }

    #[test]
    fn cycles_are_refused_with_the_names() {
        check("a<a", Err("views are made from each other: a <- a"));
        check("x a<b b<c c<a", Err("views are made from each other: a <- b <- c <- a"));
        check("a<b b<c c<b", Err("views are made from each other: b <- c <- b"));
    }

    #[test]
    fn strangers_and_twins_are_refused() {
        check("a<b", Err("view a is made from b, which is not registered"));
        check("a b a", Err("view a is registered twice"));
    }
}
