
SELECT pg_catalog.setval('shop.categories_id_seq', (SELECT max(id) FROM shop.categories));
SELECT pg_catalog.setval('shop.products_id_seq', (SELECT max(id) FROM shop.products));
SELECT pg_catalog.setval('shop.people_id_seq', (SELECT max(id) FROM shop.people));
SELECT pg_catalog.setval('shop.addresses_id_seq', (SELECT max(id) FROM shop.addresses));
SELECT pg_catalog.setval('shop.orders_id_seq', (SELECT max(id) FROM shop.orders));
SELECT pg_catalog.setval('shop.payments_id_seq', (SELECT max(id) FROM shop.payments));
SELECT pg_catalog.setval('shop.reviews_id_seq', (SELECT max(id) FROM shop.reviews));

ALTER TABLE ONLY shop.categories ADD PRIMARY KEY (id);
ALTER TABLE ONLY shop.categories ADD UNIQUE (slug);
ALTER TABLE ONLY shop.products ADD PRIMARY KEY (id);
ALTER TABLE ONLY shop.products ADD UNIQUE (sku);
ALTER TABLE ONLY shop.people ADD PRIMARY KEY (id);
ALTER TABLE ONLY shop.people ADD UNIQUE (email);
ALTER TABLE ONLY shop.addresses ADD PRIMARY KEY (id);
ALTER TABLE ONLY shop.orders ADD PRIMARY KEY (id);
ALTER TABLE ONLY shop.order_lines ADD PRIMARY KEY (order_id, line);
ALTER TABLE ONLY shop.payments ADD PRIMARY KEY (id);
ALTER TABLE ONLY shop.reviews ADD PRIMARY KEY (id);

CREATE INDEX products_category ON shop.products (category_id);
CREATE INDEX addresses_person ON shop.addresses (person_id);
CREATE INDEX orders_person ON shop.orders (person_id);
CREATE INDEX orders_placed_at ON shop.orders (placed_at);
CREATE INDEX orders_open ON shop.orders (placed_at) WHERE status IN ('placed', 'paid');
CREATE INDEX order_lines_product ON shop.order_lines (product_id);
CREATE INDEX payments_order ON shop.payments (order_id);
CREATE INDEX reviews_product ON shop.reviews (product_id);

ALTER TABLE ONLY shop.categories ADD FOREIGN KEY (parent_id) REFERENCES shop.categories (id);
ALTER TABLE ONLY shop.products ADD FOREIGN KEY (category_id) REFERENCES shop.categories (id);
ALTER TABLE ONLY shop.addresses ADD FOREIGN KEY (person_id) REFERENCES shop.people (id) ON DELETE CASCADE;
ALTER TABLE ONLY shop.orders ADD FOREIGN KEY (person_id) REFERENCES shop.people (id);
ALTER TABLE ONLY shop.orders ADD FOREIGN KEY (address_id) REFERENCES shop.addresses (id);
ALTER TABLE ONLY shop.order_lines ADD FOREIGN KEY (order_id) REFERENCES shop.orders (id) ON DELETE CASCADE;
ALTER TABLE ONLY shop.order_lines ADD FOREIGN KEY (product_id) REFERENCES shop.products (id);
ALTER TABLE ONLY shop.payments ADD FOREIGN KEY (order_id) REFERENCES shop.orders (id) ON DELETE CASCADE;
ALTER TABLE ONLY shop.reviews ADD FOREIGN KEY (product_id) REFERENCES shop.products (id);
ALTER TABLE ONLY shop.reviews ADD FOREIGN KEY (person_id) REFERENCES shop.people (id);

CREATE VIEW shop.revenue_by_month AS
    SELECT date_trunc('month', placed_at) AS month, count(*) AS orders, sum(total_cents) / 100.0 AS revenue
    FROM shop.orders
    WHERE status NOT IN ('cancelled', 'returned')
    GROUP BY 1
    ORDER BY 1;

-- End of the sample shop
