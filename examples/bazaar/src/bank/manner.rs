//! What becomes of an account: its name says it.

/// How the bank treats an account, by how that, or its part before `@`, begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Any other: it works.
    Good,
    /// `poor`: holds and charges are 402 `insufficient_funds`.
    Poor,
    /// `declined`: charges are 402 `declined`.
    Declined,
    /// `slow`: charges take [eight seconds](super::SLOW), also if nobody waits for them any more.
    Slow,
    /// `lost`: charges are done, and never answered.
    Lost,
    /// `late`: of a charge the first two attempts do nothing and are never answered; the third works.
    Late,
    /// `broken`: charges are 500, and do nothing.
    Broken,
}

impl Manner {
    /// That of an account.
    pub fn of(account: &str) -> Self {
        let known = [
            ("poor", Self::Poor),
            ("declined", Self::Declined),
            ("slow", Self::Slow),
            ("lost", Self::Lost),
            ("late", Self::Late),
            ("broken", Self::Broken),
        ];
        let named = known.into_iter().find(|(beginning, _)| account.starts_with(beginning));
        named.map_or(Self::Good, |(_, manner)| manner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_of_an_account_decides() {
        let golden = [
            ("asha@okbank", Manner::Good),
            ("poor@okbank", Manner::Poor),
            ("poor-1", Manner::Poor),
            ("declined", Manner::Declined),
            ("slow.2@upi", Manner::Slow),
            ("lost@upi", Manner::Lost),
            ("late@upi", Manner::Late),
            ("broken_card", Manner::Broken),
            ("asha@poor", Manner::Good),
            ("Poor@upi", Manner::Good),
        ];
        for (account, manner) in golden {
            assert_eq!(Manner::of(account), manner, "{account}");
        }
    }
}
