CREATE TABLE product (id serial PRIMARY KEY, name text NOT NULL, stock integer NOT NULL CHECK (stock >= 0));
INSERT INTO product (name, stock) SELECT 'product ' || n, n % 10 FROM generate_series(1, 1000) n;
