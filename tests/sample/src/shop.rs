//! The shop: how much of everything there is, and what each row says.

use std::io::{self, Write};

use crate::chance::Chance;
use crate::row::Row;
use crate::words::{ADJECTIVES, CITIES, DEPARTMENTS, FIRST_NAMES, KINDS, MATERIALS, PROSE, STREETS, SURNAMES, THINGS};

const SCHEMA: &str = include_str!("schema.sql");
const CONSTRAINTS: &str = include_str!("constraints.sql");

/// When the shop opened: 2022-01-01.
const OPENED: u64 = 1_640_995_200;
/// How long it is open, until 2025-12-31.
const SPAN: u64 = 4 * 365 * 86_400;
/// Bytes of SQL that one person brings, with what that person orders and writes; measured, rounded down.
const BYTES_A_PERSON: u64 = 1050;
/// How many orders there are for each person, on average.
const ORDERS_A_PERSON: u64 = 4;

/// Streams of chance, one for each kind of row.
#[derive(Debug, Clone, Copy)]
enum Stream {
    Product,
    Person,
    Order,
    Payment,
    Review,
}

/// A shop of a certain size.
#[derive(Debug)]
pub(crate) struct Shop {
    seed: u64,
    people: u64,
    products: u64,
    orders: u64,
}

/// What several tables need to know of an order.
struct Order {
    person: u64,
    address: u64,
    placed: u64,
    lines: Vec<Line>,
    /// Chance for the rest of the row.
    chance: Chance,
}

struct Line {
    product: u64,
    quantity: u64,
    price: u64,
}

impl Order {
    fn total(&self) -> u64 {
        self.lines.iter().map(|line| line.quantity * line.price).sum()
    }

    /// Tells how it went, which depends on how long ago it was placed.
    fn status(&self) -> &'static str {
        let days = (OPENED + SPAN - self.placed) / 86_400;
        match (days, self.chance.clone().below(100)) {
            (_, 0..4) => "cancelled",
            (0..2, 4..30) => "placed",
            (0..4, _) => "paid",
            (4..9, 4..80) => "shipped",
            (20.., 93..) => "returned",
            _ => "delivered",
        }
    }
}

impl Shop {
    /// Plans a shop whose SQL has at least `size` bytes.
    pub(crate) fn of_size(size: u64, seed: u64) -> Self {
        let people = size / BYTES_A_PERSON + 200;
        Self { seed, people, products: people / 40 + 100, orders: people * ORDERS_A_PERSON }
    }

    /// Writes all of it.
    pub(crate) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(SCHEMA.as_bytes())?;
        Self::categories(out)?;
        self.products(out)?;
        self.people(out)?;
        self.addresses(out)?;
        self.orders(out)?;
        self.order_lines(out)?;
        self.payments(out)?;
        self.reviews(out)?;
        out.write_all(CONSTRAINTS.as_bytes())
    }

    fn chance(&self, stream: Stream, index: u64) -> Chance {
        Chance::of(self.seed * 16 + stream as u64, index)
    }

    /// Returns when the `index`th of `count` things happened in a shop that grows steadily: twice the time, four times the things.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is a share between 0 and 1 of a time in seconds"
    )]
    fn moment(index: u64, count: u64) -> u64 {
        OPENED + ((index as f64 / count as f64).sqrt() * SPAN as f64) as u64
    }

    fn price(&self, product: u64) -> u64 {
        let mut chance = self.chance(Stream::Product, product);
        99 + chance.skewed(400) * 50
    }

    fn addresses_of(&self, person: u64) -> u64 {
        let shape = self.chance(Stream::Person, person).below(10);
        if shape < 7 { 1 } else { shape - 5 }
    }

    fn order(&self, index: u64) -> Order {
        let mut chance = self.chance(Stream::Order, index);
        // Whoever orders has signed up; those who did so early order often.
        let signed_up = index / ORDERS_A_PERSON + 1;
        let person = if chance.percent(40) { chance.skewed(signed_up) } else { chance.below(signed_up) };
        let address = person * 4 + chance.below(self.addresses_of(person));
        let lines = (0..=chance.skewed(6))
            .map(|_| {
                let product = chance.skewed(self.products);
                Line { product, quantity: chance.skewed(4) + 1, price: self.price(product) }
            })
            .collect();
        Order { person, address, placed: Self::moment(index, self.orders), lines, chance }
    }

    fn categories(out: &mut impl Write) -> io::Result<()> {
        out.write_all(b"\nCOPY shop.categories (id, parent_id, name, slug) FROM stdin;\n")?;
        let mut row = Row::default();
        let mut id = DEPARTMENTS.len() as u64;
        for (parent, department) in (1..).zip(DEPARTMENTS) {
            row.number(parent).null().text(&[department]).text(&[&department.to_lowercase()]).end(out)?;
        }
        for (parent, department) in (1..).zip(DEPARTMENTS) {
            for kind in KINDS {
                id += 1;
                let slug = format!("{department}-{kind}").to_lowercase().replace(' ', "-");
                row.number(id).number(parent).text(&[kind]).text(&[&slug]).end(out)?;
            }
        }
        out.write_all(b"\\.\n")
    }

    fn products(&self, out: &mut impl Write) -> io::Result<()> {
        let header = b"\nCOPY shop.products (id, category_id, sku, name, description, price_cents, stock, attributes, created_at) FROM stdin;\n";
        out.write_all(header)?;
        let (roots, leaves) = (DEPARTMENTS.len() as u64, (DEPARTMENTS.len() * KINDS.len()) as u64);
        let mut row = Row::default();
        for product in 0..self.products {
            let mut chance = self.chance(Stream::Product, product + self.products);
            let (adjective, material) = (chance.pick(&ADJECTIVES), chance.pick(&MATERIALS));
            let thing = chance.pick(&THINGS);
            row.number(product + 1).number(roots + 1 + chance.below(leaves));
            row.text(&["SKU-"]).and_number(product + 1, 8);
            row.text(&[adjective, " ", material, " ", thing]);
            let words = 12 + chance.below(30);
            row.sentence((0..words).map(|_| chance.pick(&PROSE)));
            row.number(self.price(product)).number(chance.skewed(500));
            row.text(&[r#"{"material": ""#, material, r#"", "weight_g": "#])
                .and_number(20 + chance.skewed(8000), 1)
                .and("}");
            row.moment(OPENED + chance.below(SPAN / 4)).end(out)?;
        }
        out.write_all(b"\\.\n")
    }

    fn people(&self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(
            b"\nCOPY shop.people (id, email, full_name, phone, born_on, newsletter, signed_up_at) FROM stdin;\n",
        )?;
        let mut row = Row::default();
        for person in 0..self.people {
            let mut chance = self.chance(Stream::Person, person + self.people);
            let (first, last) = (chance.pick(&FIRST_NAMES), chance.pick(&SURNAMES));
            row.number(person + 1).text(&["person"]).and_number(person + 1, 1).and(chance.pick(&[
                "@example.com",
                "@example.org",
                "@example.net",
            ]));
            row.text(&[first, " ", last]);
            if chance.percent(70) {
                row.text(&["+33 6 "]).and_number(chance.below(100_000_000), 8);
            } else {
                row.null();
            }
            if chance.percent(85) {
                row.date(chance.below(40 * 365 * 86_400));
            } else {
                row.null();
            }
            row.text(&[if chance.percent(30) { "t" } else { "f" }]);
            row.moment(Self::moment(person, self.people)).end(out)?;
        }
        out.write_all(b"\\.\n")
    }

    fn addresses(&self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(b"\nCOPY shop.addresses (id, person_id, street, postcode, city, country) FROM stdin;\n")?;
        let mut row = Row::default();
        for person in 0..self.people {
            let mut chance = self.chance(Stream::Person, person + 2 * self.people);
            for address in 0..self.addresses_of(person) {
                let (city, country, postcode) =
                    CITIES[usize::try_from(chance.skewed(CITIES.len() as u64)).unwrap_or_default()];
                row.number(person * 4 + address + 1).number(person + 1);
                row.text(&[chance.pick(&STREETS), " street "]).and_number(chance.skewed(200) + 1, 1);
                row.text(&[postcode]).and_number(chance.below(1000), 3);
                row.text(&[city]).text(&[country]).end(out)?;
            }
        }
        out.write_all(b"\\.\n")
    }

    fn orders(&self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(
            b"\nCOPY shop.orders (id, person_id, address_id, status, placed_at, total_cents, note) FROM stdin;\n",
        )?;
        let mut row = Row::default();
        for index in 0..self.orders {
            let mut order = self.order(index);
            row.number(index + 1).number(order.person + 1).number(order.address + 1);
            row.text(&[order.status()]).moment(order.placed).number(order.total());
            let chance = &mut order.chance;
            if chance.percent(8) {
                let words = 3 + chance.below(10);
                row.sentence((0..words).map(|_| chance.pick(&PROSE)));
            } else {
                row.null();
            }
            row.end(out)?;
        }
        out.write_all(b"\\.\n")
    }

    fn order_lines(&self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(
            b"\nCOPY shop.order_lines (order_id, line, product_id, quantity, unit_price_cents) FROM stdin;\n",
        )?;
        let mut row = Row::default();
        for index in 0..self.orders {
            for (number, line) in (1..).zip(self.order(index).lines) {
                row.number(index + 1).number(number).number(line.product + 1).number(line.quantity).number(line.price);
                row.end(out)?;
            }
        }
        out.write_all(b"\\.\n")
    }

    fn payments(&self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(
            b"\nCOPY shop.payments (id, order_id, method, state, amount_cents, reference, paid_at) FROM stdin;\n",
        )?;
        let mut row = Row::default();
        let mut id = 0;
        for index in 0..self.orders {
            let mut chance = self.chance(Stream::Payment, index);
            let order = self.order(index);
            let last = match order.status() {
                "placed" => "pending",
                "cancelled" | "returned" => "refunded",
                _ => "captured",
            };
            let failed = chance.percent(4).then_some("failed");
            for state in failed.into_iter().chain([last]) {
                id += 1;
                row.number(id).number(index + 1).text(&[chance.pick(&["card", "card", "card", "transfer", "wallet"])]);
                row.text(&[state]).number(order.total()).text(&["TX"]).and_number(chance.next() >> 8, 18);
                if state == "pending" {
                    row.null();
                } else {
                    row.moment(order.placed + chance.skewed(7200));
                }
                row.end(out)?;
            }
        }
        out.write_all(b"\\.\n")
    }

    fn reviews(&self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(
            b"\nCOPY shop.reviews (id, product_id, person_id, rating, title, body, written_at) FROM stdin;\n",
        )?;
        let mut row = Row::default();
        let mut id = 0;
        for index in 0..self.orders {
            let mut chance = self.chance(Stream::Review, index);
            if !chance.percent(15) {
                continue;
            }
            id += 1;
            let order = self.order(index);
            let Some(line) = order.lines.first() else { continue };
            row.number(id).number(line.product + 1).number(order.person + 1).number(5 - chance.skewed(5));
            row.sentence([chance.pick(&ADJECTIVES), chance.pick(&THINGS)].into_iter());
            let words = 10 + chance.skewed(90);
            row.sentence((0..words).map(|_| chance.pick(&PROSE)));
            row.moment(order.placed + 5 * 86_400 + chance.skewed(30 * 86_400)).end(out)?;
        }
        out.write_all(b"\\.\n")
    }
}
