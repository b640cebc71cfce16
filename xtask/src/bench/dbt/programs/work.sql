-- Tables, an index, joins, groups and text: what it prints has to be the same everywhere.
create table customer (id integer primary key, name text, town text);
create table sale (id integer primary key, customer integer, amount integer, at text);
begin;
with recursive n(i) as (select 1 union all select i + 1 from n where i < 2000)
  insert into customer select i, printf('customer %06d', i * 7919 % 100003), 'town ' || (i * 31 % 97) from n;
with recursive n(i) as (select 1 union all select i + 1 from n where i < 30000)
  insert into sale select i, 1 + i * 7919 % 2000, i * 104729 % 10007, date('2020-01-01', '+' || (i % 1500) || ' days') from n;
commit;
create index sale_customer on sale (customer, amount);
select town, count(*), sum(amount), max(name) from sale join customer on customer.id = sale.customer
  group by town order by sum(amount) desc limit 10;
select substr(at, 1, 7) as month, count(distinct customer), total(amount) from sale group by month order by month limit 12;
select count(*) from customer where name like '%99%' or exists (select 1 from sale where customer = customer.id and amount > 10000);
update sale set amount = amount + 1 where customer % 7 = 3;
delete from sale where amount % 11 = 5;
select count(*), sum(amount), sum(length(at)) from sale;
pragma integrity_check;
