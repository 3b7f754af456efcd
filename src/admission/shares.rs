//! Which class may have one request more under way. Pure.
//!
//! - A class under its share of the limit is always let in.
//! - Above it, it borrows from the shares of the classes below it, never from those above: in need, exports starve
//!   first and heartbeats last.
//! - The limit is no wall. Between it and the most, more and more of those who borrow are refused, in proportion (Random
//!   Early Detection, Floyd and Jacobson, IEEE/ACM ToN 1-4, 1993). A wall refuses all who come while a short queue drains;
//!   all of them stay away for as long, the service idles, and then they are all back. The less a class is worth, the
//!   sooner all of it is refused: lists at the limit, heartbeats at twice of it.

use super::class::Class;

const CLASSES: usize = Class::ALL.len();

/// How many requests may be under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// From here on some are refused.
    pub limit: u32,
    /// Here all are. Not below the limit.
    pub most: u32,
}

/// Requests under way, by class.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shares {
    under_way: [u32; CLASSES],
    /// Refusals that each class is due, less those that it got: fractions, between 0 and 1.
    due: [f64; CLASSES],
}

impl Shares {
    /// Counts one request more if there is room for its class.
    pub fn enter(&mut self, class: Class, room: Room) -> bool {
        let may = self.may_enter(class, room);
        if may {
            self.under_way[class.place()] += 1;
        }
        may
    }

    pub fn leave(&mut self, class: Class) {
        let count = &mut self.under_way[class.place()];
        *count = count.saturating_sub(1);
    }

    pub fn of(&self, class: Class) -> u32 {
        self.under_way[class.place()]
    }

    pub fn total(&self) -> u32 {
        self.under_way.iter().sum()
    }

    fn may_enter(&mut self, class: Class, room: Room) -> bool {
        if self.of(class) < share(class.share(), room.limit) {
            return true;
        }
        // None is worth more than those before it: of two that want to borrow, the worthier is refused less often.
        let of_the_worthier =
            Class::ALL.into_iter().take(class.place() + 1).map(|class| self.refused_part(class, room));
        let part = of_the_worthier.fold(0.0, f64::max);
        let due = &mut self.due[class.place()];
        *due += part;
        if *due < 1.0 {
            return true;
        }
        *due -= 1.0;
        false
    }

    /// Of those of this class who want to borrow: by what those who may borrow from the same have, and by the whole.
    fn refused_part(&self, class: Class, room: Room) -> f64 {
        let below = Class::ALL.into_iter().skip(class.place());
        let (percent, used) =
            below.fold((0, 0), |(percent, used), class| (percent + class.share(), used + self.of(class)));
        let own = share(percent, room.limit);
        let most = |limit: u32, most: u32| limit + most.saturating_sub(limit) * class.patience() / 100;
        let of_its_own = refused_part(used, own, most(own, share(percent, room.most)));
        of_its_own.max(refused_part(self.total(), room.limit, most(room.limit, room.most)))
    }
}

/// None below `limit`, all from `most` on.
fn refused_part(under_way: u32, limit: u32, most: u32) -> f64 {
    if under_way < limit {
        0.0
    } else if under_way >= most {
        1.0
    } else {
        f64::from(under_way - limit) / f64::from(most - limit)
    }
}

/// At least one: no class is shut out.
fn share(percent: u32, limit: u32) -> u32 {
    (limit.saturating_mul(percent) / 100).max(1)
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "a few hundred at most")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn class() -> impl Strategy<Value = Class> {
        proptest::sample::select(Class::ALL.to_vec())
    }

    /// All are let in up to the limit, and none beyond.
    const fn wall(limit: u32) -> Room {
        Room { limit, most: limit }
    }

    fn fill(shares: &mut Shares, class: Class, limit: u32) -> u32 {
        std::iter::repeat_with(|| shares.enter(class, wall(limit))).take_while(|entered| *entered).count() as u32
    }

    #[test]
    fn beyond_the_limit_they_are_refused_in_proportion() {
        let room = Room { limit: 100, most: 200 };
        for (under_way, refused) in [(0, 0), (69, 0), (70, 0), (96, 500), (121, 981), (122, 1_000), (400, 1_000)] {
            let mut shares = Shares::default();
            shares.under_way[Class::Readings.place()] = under_way;
            let tries = (0..1_000).filter(|_| {
                let entered = shares.enter(Class::Readings, room);
                if entered {
                    shares.leave(Class::Readings);
                }
                !entered
            });
            let seen = tries.count();
            assert!(seen.abs_diff(refused) <= 1, "{under_way} under way: {seen} of 1000 are refused");
        }
        let mut shares = Shares::default();
        shares.under_way[Class::Lists.place()] = 1_000;
        assert!(shares.enter(Class::Heartbeats, room), "under its share it is let in");
    }

    #[test]
    fn each_class_alone_has_what_is_below_it_too() {
        for (class, most) in Class::ALL.into_iter().zip([100, 95, 70, 30, 10]) {
            assert_eq!(fill(&mut Shares::default(), class, 100), most, "{class:?}");
        }
    }

    #[test]
    fn the_brown_out_sheds_lists_first_and_heartbeats_last() {
        let mut shares = Shares::default();
        fill(&mut shares, Class::Readings, 100);
        assert_eq!(shares.total(), 70, "readings borrowed from those below");
        assert_eq!(fill(&mut shares, Class::Heartbeats, 100), 25, "their share: what they could borrow is taken");
        assert_eq!(fill(&mut shares, Class::Lists, 100), 10, "their share alone, although all is taken");
        assert_eq!(fill(&mut shares, Class::Exchange, 100), 20);
        let all: u32 = Class::ALL.iter().map(|class| class.share()).sum();
        assert!(shares.total() <= 100 + all, "what was lent is wanted back: over the limit for a while");
    }

    proptest! {
        #[test]
        fn the_worthier_is_refused_less_often(under_way in prop::array::uniform5(0_u32..150), limit in 1_u32..200) {
            let (shares, room) = (Shares { under_way, due: [0.0; CLASSES] }, Room { limit, most: 2 * limit });
            let mut last = 0.0_f64;
            for class in Class::ALL {
                let mut one = shares.clone();
                one.enter(class, room);
                if shares.of(class) >= share(class.share(), limit) {
                    // What was drawn: the fraction that is left, or all of it.
                    let part = if one.of(class) > shares.of(class) { one.due[class.place()] } else { 1.0 };
                    prop_assert!(part >= last, "{class:?}: {part} after {last}");
                    last = part;
                }
            }
        }

        #[test]
        fn whatever_happens(limit in 1_u32..400, steps in prop::collection::vec((class(), any::<bool>()), 0..600)) {
            let mut shares = Shares::default();
            for (class, comes) in steps {
                if comes {
                    let (before, guaranteed) = (shares.of(class), share(class.share(), limit));
                    let entered = shares.enter(class, wall(limit));
                    prop_assert!(entered || before >= guaranteed, "under its share it is let in");
                    let over = before >= guaranteed && shares.total() > limit;
                    prop_assert!(!(entered && over), "above it only while there is room");
                } else {
                    shares.leave(class);
                }
                for (place, class) in Class::ALL.into_iter().enumerate() {
                    let below: u32 = Class::ALL[place..].iter().map(|class| class.share()).sum();
                    let most = share(below, limit).max(share(class.share(), limit)) + CLASSES as u32;
                    prop_assert!(shares.of(class) <= most, "{class:?} has nothing of those above it");
                }
            }
        }

        #[test]
        fn who_enters_and_leaves_leaves_nothing(limit in 1_u32..400, entries in prop::collection::vec(class(), 0..300)) {
            let mut shares = Shares::default();
            let entered: Vec<Class> = entries.into_iter().filter(|class| shares.enter(*class, wall(limit))).collect();
            prop_assert_eq!(shares.total() as usize, entered.len());
            for class in entered {
                shares.leave(class);
            }
            prop_assert_eq!(shares.total(), 0);
        }
    }
}
