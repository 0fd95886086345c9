#!/usr/bin/env python3
"""Writes tests/fixtures/jinja.json: small templates, and what jinja2 as transformers sets it up makes of them.

    python3 tests/reference/make_jinja.py > tests/fixtures/jinja.json

Each case has its template and one of: "text" (and "generation", byte ranges), "raised" (the text of raise_exception),
"message" (an undefined or forbidden thing: the error's text is the same), "fails" (an error of any text), "refused" (what
we refuse and jinja2 may well render; part of our message).
Needs transformers and jinja2; see jinja_conformance.py.
"""

import json
import sys

import jinja_conformance

VARIABLES = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Grüße, 東京 🙂"},
        {"role": "assistant", "content": None, "tool_calls": [{"name": "f", "arguments": {"x": 1, "y": [1.5, "a"]}}]},
        {"role": "tool", "content": "42", "name": "f"},
        {"role": "assistant", "content": "done"},
    ],
    "objs": [{"n": 2, "m": "x"}, {"n": 1, "m": "y", "a": 5}, {"n": 2, "m": "b"}],
    "d": {"k": "v", "x": 1, "items_": [1]},
    "tree": [{"v": 1, "kids": [{"v": 2, "kids": []}, {"v": 3, "kids": [{"v": 4, "kids": []}]}]}],
    "numbers": [3, 1, 2, 10],
    "text": "  Hello, World!\n",
    "x": "outer",
    "yes": True,
    "no": False,
    "nothing": None,
    "ratio": 0.1,
    "big": 9007199254740993,
    "tools": None,
    "documents": None,
    "add_generation_prompt": False,
}

# One per line, printed between {{ and }}.
EXPRESSIONS = r"""
undef
none
true
False
None
1
-7
1.5
1e16
1e22
123456.789
0.1+0.2
5e-324
1.0e-5
0.0001
1e15
1_000
0x1F
0o17
0b11
1.5e-3
big
ratio
nothing
yes
'a' 'b'
'\x41\u00e9\n'~1
'a\'b'
"a'b"
'\101'
'\q'
'\é'
['a\'b','a"\'b',"\t\u00a0é🙂\x7f"]
(1,)
()
{'a':1,2:[none,true]}
{1:2}[1.0]
{true:2}[1]
[1,2].1
{'a':{'b':[7]}}.a.b.0
'abc'[1]
'abc'[9]
'é🙂b'[1]
'é🙂b'[::-1]
'abc'[-1:]
'abcdef'[1:5:2]
[1,2,3,4,5][::2]
[1,2,3,4,5][4:1:-2]
[1,2,3][:-5:-1]
[1,2,3][1:]
(1,2,3)[-2:]
[1,2][5:]
'abc'[2:1]
[1][::0]
'a'[undef:]
nothing[1:]
1 if yes
1 if no
(1 if no).x
'a' if no else 'b'
'a' if no else 'b' if no else 'c'
1 < 2 < 3
3 > 2 == 2
1 == 1.0 == true
not 1 == 2
1 in [1] == true
'a' in 'abc'
'é' not in 'abc'
1 in {1:2}
[1] in [[1]]
1 in 'a'
1 in nothing
undef in [1]
1 in undef
[1] in {1:2}
1 and 0 or 'z'
'' or none or []
1 and 2
not undef
2**10
2**-1
-2**2
7//-2
-7//2
7%-3
-7%3
7.5//2
-7.5//2
-7.5%2
1/3
10/5
7/0
7%0
7.0//0
1+true
'a'+'b'
'a'*3
3*'ab'
[1]*3
[1]+[2]
(1,)+(2,)
'a'+1
1+'a'
[1]+(2,)
{}+{}
1 ~ none ~ 1.0 ~ [] ~ undef
-'a'
+1.5
- -3
--3
9223372036854775807+0
'a' < 'b'
[1,2] < [1,3]
(1,2) <= (1,)
'a' < 1
none < 1
{'a':1}=={'a':1.0}
[1,[2]]==[1,[2]]
(1,)==[1]
big==big+0.0
'%05d|%-5s|%5.1f|%x|%e|%g|%%'|format(42,'a',3.14159,255,12345.678,0.0001)
'%(a)s %(b)05.2f' % {'a':1,'b':2.5}
'%s %s' % (1,'b')
'%s' % [1]
'%d' % 3.9
'%s' % ()
'%s' % (1,2)
'%d' % 'a'
'%.2s|%5s|%-5s|' % ('abc','ab','ab')
'%+d % d %o %X %r' % (5,5,8,255,'x')
'%' % 1
'%z' % 1
'{:>5}|{:<5}|{:^5}|{:*^7}'.format('a','b','c','d')
'{:05d}|{:+d}|{:,}|{:x}|{:b}'.format(42,5,1234567,255,5)
'{:.2f}|{:10.3e}|{:g}|{:%}'.format(3.14159,12345.678,0.0001,0.25)
'{0}{1}{0}'.format('a','b')
'{a}{b[0]}{c.x}'.format(a=1,b=[2],c={'x':3})
'{!r}{{}}'.format('x')
'{:,.2f}'.format(1234567.891)
'{}'.format(none)
'{:5}|{:5}'.format(1,'a')
'{:.3}'.format('abcdef')
'{}{0}'.format(1)
'{}'.format()
'{'.format(1)
strftime_now('%Y-%m-%d %H:%M:%S %a %A %b %B %d %e %j %y %p %I %-d %-m %U %W %V %G %u %w %% %D %F %T %R %c %x %X %h|%f|%k|%l|%P|%C|%g|%_m')
raise_exception('gone: é')
raise_exception()
namespace(a=1).a
namespace({'x':1}).x
namespace(a=1).b
namespace(_a=1)
namespace(a=1)
dict(a=1,b=2)
dict([('a',1)])
dict({'a':1},b=2)
dict(1)
dict([(1,2,3)])
cycler('a','b').next()
cycler()
joiner('-')()
range(5)|list(1)
range(1,10,3)|list
range(5,1,-2)|list
range(3)[1]
range(200000)
range(1,2,0)
range('a')
range(3)
lipsum
text|trim
text|upper
text.strip().lower()
'Ünï ß ŉ ǆ'|upper
'İΑΣ ΑΣΑ'|lower
'ﬁn ǆ'|capitalize
"it's a-b (c) {d}"|title
"it's a-b".title()
'a\nb\r\nc\x0bd'.splitlines()
'a\nb'.splitlines(true)
'a,b,,c'.split(',')
'a b\tc'.split()
'  a  b '.split(none,1)
'aXbXc'.rsplit('X',1)
' a b '.rsplit(none,1)
'a'.split('')
'abc'.startswith(('x','a'))
'abc'.startswith(['a'])
'abc'.endswith('c')
'abc'.endswith('b',0,2)
'abc'.replace('','-')
'aaa'.replace('a','b',2)
'abc'.find('c')
'abc'.index('z')
'éab'.find('b')
'éaéa'.rfind('a')
'aaa'.count('a')
'abc'.count('')
'abc'.find('',9)
'abc'.startswith('',9)
'a-b-c'.partition('-')
'a-b-c'.rpartition('-')
'a'.partition('-')
'-'.join(['b','c'])
''.join([1])
'abc'.removeprefix('a')
'abc'.removesuffix('x')
'-5'.zfill(4)
'é'.center(5,'*')
'a'.ljust(3)~'|'
'a'.rjust(3,'.')
'12'.isdigit()
'²'.isdigit()
'²'.isdecimal()
'½'.isnumeric()
'aé'.isalpha()
'a1'.isalnum()
' \u3000'.isspace()
'AÉ'.isupper()
'ǅ'.isupper()
'é'.isascii()
''.isalpha()
'xxhixx'.strip('x')
'éxé'.lstrip('é')
'a'.strip(1)
'a'.strip('a','b')
'a'.nope
'a'.nope()
[1,2,1].count(1)
[1,2].index(2)
[1,2].index(5)
[1].append(2)
[1].append
{'a':1}.pop('a')
d.update(b=2)
d.setdefault
d.get('k')
d.get('zz')
d.get('zz',9)
d.get([1])
d.keys()
d.values()
d.items()
d.items()|list
d.x
d['x']
d.k.upper()
d.nope
d.nope.deeper
d['nope']['deeper']
d.items_[0]
d[[1]]
[1]['a']
nothing.a
nothing.a.b
5 .a
messages[9].role
messages['a'].b
messages[0].role
messages[-1]['content']
messages|length
(messages|last).role
messages|map(attribute='role')|join(',')
messages|selectattr('role','equalto','user')|list|length
messages|selectattr('content')|map(attribute='content')|list
messages|rejectattr('name','defined')|list|length
messages|map(attribute='name',default='-')|join
undef.a
undef['a']
undef()
undef+1
'a'+undef
undef<1
undef==undef
undef==none
-undef
undef|length
undef|list
undef|join
undef|upper
undef|tojson
undef[1:]
undef|int
undef|first
undef|last
1|default(2)
undef|default(2)
undef|d
''|default('x',true)
none|default('x')
none|default('x',boolean=true)
nothing|default('x')
2.5|round
3.5|round
2.675|round(2)
5|round
1.21|round(1,'ceil')
1.29|round(1,'floor')
'a'|round
-7.5|abs
'a'|abs
'5'|int
'0x1f'|int(0,16)
'z'|int
'z'|int(7)
'1.9'|int
'1e2'|float
'nan'|float
'-inf'|float
' 12_3 '|int
'٤٢'|int
-3.7|int
none|int(7)
true|int
'x'|float(1.5)
[]|int
[1,none,'']|select|list
[1,none,'']|reject|list
[1,2,3]|select('odd')|list
[1,2,3]|select('divisibleby',3)|list
[1,2]|select('gt',1)|list
[1]|select('zz')|list
[1]|map|list
[]|map|list
['a','b']|map('upper')|join('+')
['ab','c']|map('length')|sum
['a']|map('replace','a','z')|list
[[1,2],[3,4]]|map(attribute=1)|list
[{'a':{'b':1}},{'a':{}}]|map(attribute='a.b')|list
[1]|map('zz')|list
objs|map(attribute='n')|sum
objs|sum(attribute='n')
[1]|sum(start=4)
['a']|sum
[[1],[2]]|sum(start=[])
[]|max
numbers|max
numbers|min
objs|min(attribute='m')
['b','A']|min
numbers|sort
numbers|sort(true)
objs|sort(attribute='n')|map(attribute='m')|join
objs|sort(attribute='n',reverse=true)|map(attribute='m')|join
objs|sort(attribute='n,m')|map(attribute='m')|join
['b','A','a','B']|sort
['b','A','a','B']|sort(case_sensitive=true)
['b','A','a','B']|unique|list
[1,'a']|sort
[none,1]|sort
'bca'|sort
[3,1,3]|unique|list
[[1]]|unique|list
objs|groupby('n')|map('first')|list
objs|groupby('n')|map(attribute='list')|map('length')|list
(objs|groupby('a',default=0))[0].grouper
objs|groupby('n')|list|length
{'b':1,'A':2}|dictsort
{'b':1,'A':2}|dictsort(true)
{'b':1,'a':2}|dictsort(by='value',reverse=true)
{'b':1}|dictsort(by='z')
[1]|dictsort
d|items|list
undef|items|list
[1]|items|list
range(7)|batch(3,'-')|list
range(7)|slice(3)|list
range(7)|slice(3,'x')|list
'abc'|list
'abc'|first
'abc'|last
'abc'|reverse
[1,2]|reverse|list
d|list
d|first
d|last
[]|first
5|first
(x for x in [])
'abc'|join('-')
[1,none,'a']|join(', ')
[1]|join(2)
5|join
'hello world'|truncate(8)
'hello world foo'|truncate(9,true)
'hello world'|truncate(8,false,'!',0)
'hello'|truncate(2)
'a b  c_d'|wordcount
'x'|indent(2,true)
'a\n\nb'|indent(2)
'a\n\nb'|indent(2,blank=true)
'a\nb'|indent('> ')
5|indent
'a'|center(4)~'|'
'aXa'|replace('a','b')
'aaa'|replace('a','b',1)
5|replace(5,6)
[1]|string
'a/b c?é'|urlencode
{'a b':'c&d/','e':1}|urlencode
'<a href="x">\'&'|e
5|e
'<'|e|e
('<'|e)|forceescape
('<'|e) + '<'
'<' + ('<'|safe)
('<'|safe) ~ '<'
('a<'|safe)|upper + '<'
('<b>'|safe).replace('b','<')
('<'|safe).join(['<','b'])
['<']|join('<'|safe)
('a'|safe)*2 + '<'
('<b'|safe)[0] + '<'
('<x'|safe).split('x') + ['y']
('a'|safe)=='a'
'<'|escape|length
d|tojson|safe
d|tojson
{'b':1,'a':[1,2.0,none,true,'é"\\\n\u2028\x7f\x01']}|tojson
'é🙂\x7f'|tojson(true)
[1,[],{},[[]],{'a':{}}]|tojson(indent=2)
[1]|tojson(indent=0)
[1,{'a':2}]|tojson(indent='\t')
{'a':[1,2]}|tojson(separators=(',',':'))
{'b':1,'a':2}|tojson(sort_keys=true)
{'b':1,1:2}|tojson(sort_keys=true)
{none:1,true:2,1.5:3,4:5}|tojson
{(1,2):1}|tojson
namespace()|tojson
'</script>'|tojson
(1,2)|tojson
d.items()|tojson
'nan'|float|tojson
tojson(1)
1 is odd
2 is not odd
'a' is odd
5 is divisibleby 5
5 is divisibleby(2)
none is none
none is none and 1
1 is defined
d.zz is defined
d.zz is not defined
undef is undefined
'a' is string
('a'|safe) is escaped
1 is number
true is number
true is integer
1 is integer
1.0 is float
1.0 is integer
true is boolean
1 is boolean
0 is false
false is false
true is true
d is mapping
[] is mapping
[] is sequence
'a' is sequence
undef is sequence
d.items() is sequence
d.items() is iterable
5 is iterable
(1,) is sequence
([]|map('upper')) is sequence
range is callable
'a'.upper is callable
'a' is callable
namespace() is iterable
'ab' is lower
'AB' is upper
1 is lower
none is sameas none
true is sameas true
d is sameas d
1 is eq 1
1 is ne 1
1 is lt 2
1 is ge 2
'a' is in 'abc'
1 is in [1]
1 is equalto(1)
1 is greaterthan 0
'upper' is filter
'odd' is test
1 is unknowntest
1|unknownfilter
1 is defined is none
1 is odd(2)
'a'|attr('upper')()
d|attr('k')
namespace(a=1)|attr('a')
{}
a b
1 +
[1,
(1
'abc
1 if
a..b
a.
a[1
f(a=1,a=2)
f(1,*[2],3)
@
a!b
true = 1
{'a' 1}
'}}'
{'a':{'b':1}}
{'a':{'b':1}}['a']
1 }} 2 {{ 3
""
'%}'
%}
a
b
c
loop
caller
varargs
joiner
messages.copy()|length
'x'.format
[[]]|length
[1,2,]
(1,2,)
{'a':1,}
dict(a=1,)
[,]
(,)
'a' is string or 0
1 is not none if yes else 2
(1 if yes else 2) ~ 3
1 ~ 2 * 3 + 4 ~ 5
2 * 3 ** 2
-1|abs
(-1)|abs
- 1|abs
d|dictsort
5|d('x')
undef|d('x')
'|'|length
"""

STATEMENTS = [
    # text and whitespace
    "a\n", "a\n\n", "a\r\nb\rc\n", "", "\n", "{# c #}a", "a{# c #}\nb", "a {#- c -#} b", "a\n  {# c #}\n  b", "{#c", "{% raw %}{{ x }}{% endraw %}",
    "{% raw %}\n a {% if %}{% endraw %}\nb", "a {%- raw -%} b {%- endraw -%} c", "  {% raw %}x{% endraw %}  ", "{% raw %}x", "{%raw%}{{% endraw %}",
    "a\n  {% if yes %}\n  b\n  {% endif %}\nc", "a  {% if yes %}  b{% endif %}", "a\n  {%+ if yes %}b{% endif +%}\nc", "a\n {%- if yes -%} \n b \n {%- endif -%} \n c",
    "a {{- x -}} b", "a\n {{ x }}\n b", "a\n\t{{- x }}\n", "{{+ 1 }}", "{{-1}}", "{{ -1 }}", "  {% set a = 1 %}\n{{ a }}", "x{% set a = 1 %} {{ a }}", "{% if yes %}\n\n a{% endif %}",
    "\u00a0 {%- if yes %}a{% endif -%} \u3000 b", "{{ '%}' }}{% if '}}' %}ok{% endif %}", "{{ 1 }}\n\n{{ 2 }}\n", "{ {a} {% if yes %}}{% endif %}", "a{{x}}b{%if yes%}c{%endif%}", "{{x", "{% if yes", "}} %} #}",
    # if
    "{% if no %}a{% elif nothing %}b{% elif 0 %}c{% else %}d{% endif %}", "{% if no %}a{% elif yes %}b{% elif yes %}c{% endif %}", "{% if 1, 2 %}t{% endif %}", "{% if yes: %}a{% endif %}",
    "{% if yes %}a", "{% endif %}", "{% if yes %}{% endfor %}", "{% else %}", "{% if %}a{% endif %}", "{% if no %}{{ 1|unknownfilter }}{% endif %}ok", "{% if yes %}{{ 1|unknownfilter }}{% endif %}",
    "{{ 1 if yes else 1|unknownfilter }}", "{% if no %}{% for i in [1] %}{{ 1|unknownfilter }}{% endfor %}{% endif %}ok", "{% unknown %}", "{% 5 %}", "{% %}",
    # for
    "{% for i in [1,2,3] %}{{ i }}{% if not loop.last %},{% endif %}{% endfor %}", "{% for i in [] %}a{% else %}b{% endfor %}", "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for k in d %}{{ k }}{% endfor %}", "{% for c in 'aé🙂' %}[{{ c }}]{% endfor %}", "{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}", "{% for a, b in [(1,)] %}{% endfor %}",
    "{% for a, b in [(1, 2, 3)] %}{% endfor %}", "{% for a, b in [5] %}{% endfor %}", "{% for a in 5 %}{% endfor %}", "{% for a in nothing %}{% endfor %}", "{% for a in undef %}x{% else %}none{% endfor %}",
    "{% for i in numbers if i > 1 %}{{ i }}:{{ loop.index }}/{{ loop.length }} {% endfor %}", "{% for i in numbers if i > 99 %}{{ i }}{% else %}no{% endfor %}", "{% for i in range(3) %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.depth }}{{ loop.depth0 }} {% endfor %}",
    "{% for i in 'abc' %}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.previtem is defined }};{% endfor %}", "{% for i in 'ab' %}{{ loop.previtem.x }}{% endfor %}", "{% for i in [1,1,2] %}{{ loop.changed(i) }}{{ loop.cycle('a','b') }} {% endfor %}",
    "{% for i in [1] %}{{ loop.cycle() }}{% endfor %}", "{% for i in [1] %}{{ loop.nope }}{% endfor %}", "{% for i in [1] %}{{ loop.nope.x }}{% endfor %}", "{% for i in [1,2] %}{% for j in 'ab' %}{{ loop.index }}{% endfor %}{{ loop.index }} {% endfor %}",
    "{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 5 %}{% break %}{% endif %}{{ i }}{% else %}E{% endfor %}", "{% for i in [1] %}{% break %}{% else %}E{% endfor %}", "{% for i in [1] %}{% continue %}{% else %}E{% endfor %}",
    "{% for i in [1,2] %}{{ i }}{% continue %}{% else %}E{% endfor %}", "{% break %}", "{% if yes %}{% continue %}{% endif %}", "{% for i in [1] %}{% else %}{% break %}{% endfor %}", "{% for i in [1] %}{% macro m() %}{% break %}{% endmacro %}{% endfor %}",
    "{% for j in [1,2] %}{% for i in [] %}{% else %}{% break %}{% endfor %}{{ j }}{% endfor %}ok", "{% for i in [1,2] %}{% set t %}a{% break %}{% endset %}{% endfor %}ok", "{% for i in [1,2] %}{% with a = 1 %}{% continue %}{% endwith %}x{% endfor %}ok",
    "{% for i in [1] %}{% set loop = 2 %}{% endfor %}", "{% for loop in [1] %}{% endfor %}", "{% for i.x in [1] %}{% endfor %}", "{% for true in [1] %}{% endfor %}", "{% for i in [1] %}{{ i }}{% endfor %}{{ i }}", "{% for i of [1] %}{% endfor %}",
    "{% for i in tree recursive %}{{ i.v }}{% if i.kids %}({{ loop(i.kids) }}){% endif %}{{ loop.depth }}{% endfor %}", "{% for i in tree recursive %}{{ i.v }}{{ loop(i.kids) }}{% else %}.{% endfor %}", "{% for i in tree %}{{ loop(i.kids) }}{% endfor %}",
    "{% for i in tree if i.v > 0 recursive %}{{ i.v }}{{ loop(i.kids) }}{{ loop.length }}{% endfor %}", "{% set g = numbers|select('gt', 1) %}{{ g|list }}{{ g|list }}", "{% set g = numbers|map('string') %}{% for i in g %}{{ i }}{{ loop.length }}{{ loop.last }} {% endfor %}{{ g|first }}",
    "{% set g = numbers|select %}{{ g|length }}", "{% set g = numbers|select %}{% if g %}t{% endif %}{{ 3 in g }}{{ g|list }}", "{% set g = numbers|reverse %}{{ g|list }}{{ g|list }}", "{% for a, b in d|items %}{{ a }}{% endfor %}{% for a, b in d|dictsort %}{{ a }}{% endfor %}",
    "{% for grouper, list in objs|groupby('n') %}{{ grouper }}:{{ list|length }} {% endfor %}{% for g in objs|groupby('n') %}{{ g.grouper }}{{ g.list[0].m }}{{ g.count }}{% endfor %}",
    "{% for i in [1,2,3] %}{% if loop.first %}{% set a = i %}{% endif %}{{ a }}{{ a is defined }};{% endfor %}", "{% for i in numbers if loop.index > 1 %}{{ i }}{% endfor %}",
    # set and scope
    "{% set a = 1 %}{% set a = a + 1 %}{{ a }}", "{% set a, b = 1, 2 %}{{ a }}{{ b }}", "{% set a, b = [1] %}", "{% set a = 1, 2 %}{{ a }}", "{% set x = x ~ '!' %}{{ x }}", "{% for i in [1,2] %}{% set x = i %}{{ x }}{% endfor %}{{ x }}",
    "{% for i in [1] %}{{ x }}{% endfor %}{% set x = 'late' %}{{ x }}", "{{ x }}{% for i in [1] %}{{ x }}{% endfor %}{% set x = 'late' %}{{ x }}", "{% if no %}{% set x = 1 %}{% endif %}{{ x }}", "{% if yes %}{% set x = 1 %}{% endif %}{{ x }}",
    "{% if no %}{% set q = 1 %}{% endif %}{{ q is defined }}", "{% for i in [1,2] %}{{ q is defined }}{% set q = 1 %}{{ q }}{% endfor %}{{ q is defined }}", "{% for i in [1,2] %}{% if no %}{% set x = 5 %}{% endif %}{{ x }}{% endfor %}", "{% set x = 1 %}{% for i in [1,2] %}{% set x = x + 1 %}{{ x }}{% endfor %}{{ x }}",
    "{% macro m() %}{{ y }}{% endmacro %}{% set y = 7 %}{{ m() }}", "{% macro m() %}{{ x }}{% set x = 'in' %}{{ x }}{% endmacro %}{{ m() }}{{ x }}", "{% set ns = namespace(n=0, l=[]) %}{% for i in numbers %}{% set ns.n = ns.n + i %}{% set ns.l = ns.l + [i] %}{% endfor %}{{ ns.n }}{{ ns.l }}",
    "{% set ns = namespace() %}{% set ns.a, b = 1, 2 %}{{ ns.a }}{{ b }}", "{% set d.k = 1 %}", "{% set nope.k = 1 %}", "{% set ns = namespace() %}{% set ns._a = 1 %}", "{% set ns = namespace(a=1) %}{{ ns['a'] }}{{ ns.b }}|{{ ns.b.c }}", "{% set true = 1 %}", "{% set 1 = 1 %}", "{% set a.b.c = 1 %}",
    "{% set t %}a{{ x }}b{% endset %}[{{ t }}]", "{% set t | upper | replace('A', 'z') %}a{{ x }}b{% endset %}[{{ t }}]", "{% set t %}{% set q = 1 %}{{ q }}{% endset %}{{ t }}{{ q is defined }}", "{% set ns = namespace() %}{% set ns.t %}v{% endset %}{{ ns.t }}", "{% set t | replace('a', undefinedname) %}a{% endset %}{{ t }}",
    "{% with a = 1, b = x %}{{ a }}{{ b }}{% endwith %}{{ a is defined }}", "{% with x = 1, b = x %}{{ b }}{{ x }}{% endwith %}{{ x }}", "{% with %}{% set x = 3 %}{{ x }}{% endwith %}{{ x }}", "{% with a, b = (1, 2) %}{{ a }}{{ b }}{% endwith %}", "{% set text = text|trim %}{{ text }}|{{ text|length }}",
    "{% set ns = namespace(s='') %}{% for i in range(50) %}{% set ns.s = ns.s + i|string %}{% set ns.s = ns.s ~ '.' %}{% endfor %}{{ ns.s }}", "{% set a = 'x' %}{% set b = a ~ 'y' %}{% set c = b ~ 'z' %}{% set e = b ~ 'w' %}{{ a }}{{ b }}{{ c }}{{ e }}",
    # macros
    "{% macro m(a, b=2, c='z') %}[{{ a }}{{ b }}{{ c }}]{% endmacro %}{{ m(1) }}{{ m(1, c=3) }}{{ m(b=5, a=4) }}{{ m() }}", "{% macro m(a) %}{{ a is defined }}{{ a }}{% endmacro %}{{ m() }}", "{% macro m(a) %}{{ a.x }}{% endmacro %}{{ m() }}",
    "{% macro m(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}", "{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, k=3) }}", "{% macro m() %}x{% endmacro %}{{ m(1) }}", "{% macro m() %}x{% endmacro %}{{ m(k=1) }}", "{% macro m(a) %}x{% endmacro %}{{ m(1, a=2) }}", "{% macro m(a=1, b) %}{% endmacro %}", "{% macro m(a, a) %}{% endmacro %}",
    "{% macro fact(n) %}{{ n if n < 2 else n * fact(n - 1)|int }}{% endmacro %}{{ fact(6) }}", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}B{% endmacro %}{{ a() }}", "{{ m() }}{% macro m() %}x{% endmacro %}",
    "{% macro m() %}  a\n{% endmacro %}[{{ m()|trim }}]{{ m() is string }}", "{% macro m() %}<{{ caller() }}>{% endmacro %}{% call m() %}in {{ x }}{% endcall %}", "{% macro m(l) %}{% for i in l %}{{ caller(i, loop.index) }}{% endfor %}{% endmacro %}{% call(i, n) m([5,6]) %}{{ n }}={{ i }};{% endcall %}",
    "{% macro m() %}{{ caller() }}{% endmacro %}{{ m() }}", "{% macro m() %}x{% endmacro %}{% call m() %}y{% endcall %}", "{% macro m(caller) %}{{ caller() }}{% endmacro %}", "{% macro m(caller=none) %}{{ caller }}{% endmacro %}{{ m() }}", "{% call x %}{% endcall %}", "{% call 'a'.upper() %}b{% endcall %}", "{% for i in [1,2] %}{% macro m() %}{{ i }}{{ loop.index }}{% endmacro %}{{ m() }}{% endfor %}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(*[1]) }}{{ m(**{'a': 2}) }}{{ m(*[]) }}", "{{ dict(**{1: 2}) }}", "{{ dict(a=1, **{'a': 2}) }}", "{{ range(*5) }}", "{% macro m %}{% endmacro %}", "{% macro m(x.y) %}{% endmacro %}", "{% if yes %}{% macro m() %}M{% endmacro %}{% endif %}{{ m() }}",
    "{% filter upper %}a{{ x }}{% endfilter %}", "{% filter replace('a', 'b')|upper %}aXa{% set q = 1 %}{% endfilter %}{{ q is defined }}", "{% filter unknownfilter %}{% endfilter %}", "{% filter %}a{% endfilter %}", "{% print 1, 'a' %}", "{% print %}a",
    # generation
    "a{% generation %}b{{ x }}é{% endgeneration %}c{%- generation %}d\n{% endgeneration %}\ne", "{% for m in messages %}{{ m.role }}:{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<end>{% endgeneration %}{% endif %}\n{% endfor %}", "{% generation %}{% set q = 1 %}{{ q }}{% endgeneration %}{{ q is defined }}",
    "é{% generation %}a{% generation %}b{% endgeneration %}c{% endgeneration %}", "{% generation %}", "{% for i in [1,2] %}{% generation %}{{ loop.index }}{% break %}{% endgeneration %}{% endfor %}", "{% for i in [1,2] %}{% generation %}{{ loop.index }}{% endgeneration %}{% endfor %}",
    # joiners and cyclers
    "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.reset() }}{{ c.next() }}", "{% set j = joiner() %}{% for i in 'abc' %}{{ j() }}{{ i }}{% endfor %}", "{{ c.next() }}",
    # a few templates of the usual kind
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate: ' ~ loop.index) }}{% endif %}{% endfor %}",
    "{%- for m in messages -%}\n<|{{ m.role }}|>\n{{ (m.content or '')|trim }}\n{%- if m.tool_calls %}{{ m.tool_calls|tojson(indent=1) }}{% endif %}\n{%- endfor -%}{% if add_generation_prompt %}<|assistant|>{% endif %}",
    "{% set ns = namespace(found=false) %}{% for m in messages[::-1] %}{% if m.role == 'user' and not ns.found %}{% set ns.found = true %}{{ m.content }}@{{ loop.revindex0 }}{% endif %}{% endfor %}",
]  # fmt: skip

# What we do not have: the construct, and a part of the message.
REFUSED = [
    ("{% include 'a' %}", "{% include %} is not supported in chat templates"),
    ("{% import 'a' as b %}", "{% import %} is not supported"),
    ("{% from 'a' import b %}", "{% from %} is not supported"),
    ("{% extends 'a' %}", "{% extends %} is not supported"),
    ("{% block b %}{% endblock %}", "{% block %} is not supported"),
    ("{% autoescape true %}{% endautoescape %}", "{% autoescape %} is not supported"),
    ("{{ self.a }}", "not supported in chat templates: the variable 'self'"),
    ("{{ 1|pprint }}", "not supported in chat templates: filter 'pprint'"),
    ("{% if no %}{{ 1|filesizeformat }}{% endif %}", "not supported in chat templates: filter 'filesizeformat'"),
    ("{{ é }}", "unexpected char 'é'"),
    ("{{ a[1, 2] }}", "subscripts with commas are not supported"),
    ("{{ '\\N{BULLET}' }}", "\\N{...} in a string is not supported"),
    ("{{ '\\ud800' }}", "escape in string is not a character"),
    ("{{ 99999999999999999999 }}", "integers beyond 64 bits are not supported"),
    ("{{ 1e999 }}", "number is too large"),
    ("{{ 9223372036854775807 + 1 }}", "integers beyond 64 bits are not supported"),
    ("{{ 10 ** 30 }}", "integers beyond 64 bits are not supported"),
    ("{{ '99999999999999999999'|int }}", "integers beyond 64 bits are not supported"),
    ("{{ 'a'.casefold() }}", "'casefold' of type 'str' is not supported"),
    ("{{ (5).bit_length() }}", "'bit_length' of type 'int' is not supported"),
    ("{{ messages.__class__ }}", "attributes that begin with '__' are not supported"),
    ("{{ range.x }}", "attributes of functions are not supported"),
    ("{{ numbers|map('string') }}", "printing a value of type 'generator' is not supported"),
    ("{{ lipsum() }}", "lipsum() is not supported"),
    ("{{ strftime_now('%s') }}", "the directive '%s' is not supported"),
    ("{{ ('a'|safe).format() }}", "formatting a safe string is not supported"),
    ("{{ ('%s'|safe) % 1 }}", "formatting a safe string is not supported"),
    ("{{ d.items() == d.items() }}", "comparing views of dicts is not supported"),
    ("{{ range(5)[1:] }}", "slices of ranges are not supported"),
    ("{{ '%c' % 'a' }}", "the format character 'c' is not supported"),
    ("{{ '{:{}}'.format(1, 2) }}", "nested format fields are not supported"),
    ("{{ 1 is sameas 1 }}", "sameas of two values of type 'int' is not supported"),
    ("{% for i in [1] %}{% for j in loop %}{% endfor %}{% endfor %}", "iterating over 'loop' is not supported"),
    ("{{ [1].index(1, 0) }}", "index() with bounds is not supported"),
    ("{{ 1|round(-1) }}", "round: precision -1 is not supported"),
]


def main():
    import jinja2

    module = jinja_conformance.load_reference()
    cases = []
    for template in [f"{{{{ {e} }}}}" for e in EXPRESSIONS.strip("\n").split("\n")] + STATEMENTS:
        case = {"template": template}
        try:
            compiled = module._compile_jinja_template(template)
            v = json.loads(json.dumps(VARIABLES))
            fixed = {k: v.pop(k) for k in ["messages", "tools", "documents", "add_generation_prompt"]}
            text, ranges = module._render_with_assistant_indices(compiled, **fixed, **v)
            if " at 0x" in text or "<class" in text or text.startswith("<Macro"):
                case["refused"] = "is not supported"
            else:
                case["text"] = text
                if ranges:
                    case["generation"] = jinja_conformance.in_bytes(text, ranges)
        except (jinja2.exceptions.UndefinedError, jinja2.exceptions.SecurityError) as e:
            case["message"] = str(e)
        except Exception as e:  # noqa: BLE001: whatever it is, ours must fail too
            if type(e) is jinja2.exceptions.TemplateError:
                case["raised"] = str(e)
            else:
                case["fails"] = type(e).__name__
        cases.append(case)
    cases += [{"template": template, "refused": part} for template, part in REFUSED]
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    sys.stdout.write('{"variables": ' + json.dumps(VARIABLES, ensure_ascii=False) + ',\n"cases": [\n' + lines + "\n]}\n")


if __name__ == "__main__":
    main()
