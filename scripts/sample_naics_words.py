"""Words of the made-up industry classification in sample_naics.py: its codes, the things they deal with."""

# Sector: code title. Subsector: code title (doing) noun, noun. Group: code title. Industry: title: things, or
# title = U.S. industry: things | U.S. industry: things.
CLASSIFICATION = """
11 Growing, Keeping and Gathering
 111 Field and Garden Growing (growing) farming, fields, growers, cultivation
  1111 Cereals
   Barley and Oats: barley, oats, spelt, rye, millet, buckwheat
   Maize: maize, sweetcorn, silage maize, popping corn
  1112 Vegetables
   Root and Bulb Vegetables = Carrots and Beets: carrots, beetroot, parsnips, turnips, radishes
     | Onions and Leeks: onions, leeks, garlic, shallots, chives
   Leaf Vegetables: lettuce, spinach, cabbage, kale, chard, endive
  1113 Orchards and Vines
   Tree Fruit = Apples and Pears: apples, pears, quinces, medlars, cider apples
     | Stone Fruit: cherries, plums, apricots, peaches, damsons
     | Nuts: walnuts, hazelnuts, chestnuts, almonds
   Soft Fruit: raspberries, currants, gooseberries, brambles, strawberries
   Vines: wine grapes, table grapes, raisin grapes, vine cuttings
  1114 Growing Under Glass
   Cut Flowers: roses, tulips, lilies, carnations, dahlias
   Young Plants = Bedding Plants: pansies, geraniums, petunias, begonias
     | Young Trees: oak saplings, hedging yew, fruit rootstock, young firs
 112 Animal Keeping (keeping) husbandry, breeding, keepers, herds and flocks
  1121 Hoofed Animals
   Cattle = Milk Cattle: milk cows, heifers, dairy calves, raw milk
     | Beef Cattle: beef bullocks, suckler cows, veal calves, grazing steers
   Sheep and Goats: ewes, lambs, goats, raw wool, rams
  1122 Birds
   Poultry = Laying Hens: laying hens, hen eggs, pullets, hatching eggs
     | Ducks and Geese: ducks, geese, goslings, down feathers
  1123 Small Stock
   Bees: honey bees, comb honey, beeswax, queen bees
   Fish Ponds: trout, carp, eels, crayfish, fish fry
 113 Forest Gathering (gathering) gathering, collecting, forestry, cutting
  1131 Woods
   Timber Felling: spruce logs, pine logs, firewood, pulpwood, poles
   Wild Harvest: mushrooms, bilberries, resin, wild herbs, moss
31-33 Making of Goods
 311 Food and Drink Works (making) manufacturing, works, production, processing
  3111 Milling and Baking
   Flour: wheat flour, rye meal, semolina, bran, malt flour
   Baked Goods = Bread: loaves, bread rolls, flatbread, crispbread, sourdough bread
     | Cakes and Biscuits: cakes, biscuits, wafers, gingerbread, pie shells
  3112 Milk Goods
   Cheese: hard cheese, cream cheese, whey powder, curds, smoked cheese
   Butter and Cream: butter, buttermilk, clotted cream, ghee
  3113 Preserves and Drinks
   Preserves = Jams: jam, marmalade, fruit jelly, chutney
     | Pickles: pickled cucumbers, sauerkraut, olives in brine, pickled onions
   Drinks: apple juice, lemonade, cider, mineral water, beer
 315 Clothing Works (making) manufacturing, tailoring works, sewing, production
  3151 Clothes and Shoes
   Outer Clothes: coats, jackets, trousers, rain capes, uniforms
   Knitted Clothes: jerseys, socks, scarves, woollen caps
   Footwear: shoes, boots, slippers, sandals, clogs
 321 Wood and Paper Works (making) manufacturing, mills, production, shaping
  3211 Sawing and Boards
   Sawn Timber: planks, beams, floorboards, railway sleepers
   Wood Panels: plywood, veneer, chipboard, fibreboard
  3212 Wood Goods
   Wooden Furniture = Chairs and Tables: chairs, tables, stools, benches
     | Cupboards: wardrobes, bookcases, chests of drawers, kitchen cupboards
   Small Wood Goods: picture frames, wooden spoons, broom handles, toy blocks
  3213 Paper
   Paper and Card: writing paper, cardboard, tissue paper, paper bags, envelopes
 332 Metal and Machine Works (making) manufacturing, foundries, assembly, engineering
  3321 Metal Parts
   Castings: iron castings, bronze bells, stove plates, anvils
   Fastenings: screws, nails, hinges, rivets, padlocks
  3322 Machines
   Farm Machines: ploughs, harvesters, milking machines, seed drills
   Kitchen Machines = Ovens: ovens, ranges, toasters, baking stoves
     | Cooling Machines: refrigerators, freezers, ice machines, chilled cabinets
  3323 Vehicles and Fine Goods
   Bicycles: bicycles, tandems, bicycle frames, pedal carts, saddles
   Timepieces: clocks, watches, chronometers, clock springs
44-45 Shops
 441 Food Shops (selling) shops, stores, retailers, stalls
  4411 Fresh Food
   Greengrocers: carrots, apples, lettuce, onions, cherries, mushrooms
   Bread and Cake Shops: loaves, cakes, bread rolls, biscuits
   Cheese Shops: hard cheese, cream cheese, butter, raw milk
   Fish and Meat Shops = Fishmongers: trout, eels, crayfish, smoked fish
     | Butchers: lamb joints, beef cuts, sausages, poultry
  4412 Drinks
   Drink Shops: beer, cider, wine, lemonade, spirits
 449 Home Shops (selling) shops, dealers, showrooms, retailers
  4491 Furnishing
   Furniture Shops = New Furniture: chairs, tables, wardrobes, sofas, beds
     | Second-Hand Furniture: antique chairs, old bookcases, used tables, house clearance goods
   Kitchen Appliance Shops: ovens, refrigerators, toasters, washing machines
  4492 Garden and Tools
   Garden Centres: pansies, roses, young firs, compost, flower pots
   Ironmongers: screws, nails, padlocks, hand tools, paint
 451 Dress and Leisure Shops (selling) shops, boutiques, outlets, sellers
  4511 Dress
   Clothes Shops: coats, jackets, jerseys, socks, dresses
   Shoe Shops: shoes, boots, sandals, shoe polish
   Watch and Jewel Shops: watches, clocks, rings, brooches
  4512 Leisure
   Bicycle Shops: bicycles, tandems, cycle helmets, saddles
   Book and Paper Shops = Bookshops: novels, atlases, school books, sheet music
     | Stationers: envelopes, writing paper, pens, greeting cards
   Toy Shops: toy blocks, dolls, board games, kites
72 Rooms and Meals
 721 Rooms (letting) lodging, houses, accommodation, stays
  7211 Roofed Lodging
   Hotels: hotel rooms, suites, spa hotel rooms, conference hotel rooms
   Guest Houses = Farm Stays: farm rooms, barn lofts, vineyard rooms
     | City Guest Rooms: bed and breakfast rooms, pension rooms, family guest rooms
   Hostels: dormitory beds, youth hostel beds, pilgrim beds
  7212 Open-Air Lodging
   Camp Sites: tent pitches, caravan pitches, forest cabins, camper van bays
 722 Meals (serving) restaurants, kitchens, catering, bars
  7221 Sit-Down Meals
   Restaurants = Full Kitchens: roast dinners, fish dinners, set menus, vegetarian dinners
     | Pizza and Pasta Kitchens: pizza, pasta, lasagne, risotto
   Breakfast Rooms: breakfasts, pancakes, porridge, omelettes
  7222 Quick Meals and Drinks
   Snack Stands: sausages in rolls, chips, soup to go, sandwiches
   Coffee Houses: coffee, cakes, hot chocolate, tea
   Beer Halls: draught beer, cider, wine by the glass, bar snacks
  7223 Meals Elsewhere
   Banquets: wedding buffets, office lunches, funeral teas, canteen meals
81 Repair and Personal Care
 811 Repair (repairing) repair, workshops, restoration, servicing
  8111 Vehicles and Machines
   Bicycle Repair: bicycles, pedal carts, bicycle frames, punctures
   Machine Repair = Farm Machine Repair: ploughs, harvesters, milking machines
     | Appliance Repair: ovens, refrigerators, toasters, washing machines
  8112 Household Goods
   Furniture Repair: chairs, tables, wardrobes, upholstery, veneer
   Shoe Repair: shoes, boots, heels and soles, leather bags
   Clock Repair: clocks, watches, clock springs, barometers
   Clothes Mending: coats, trousers, zips, torn jerseys
 812 Personal Care (providing) services, parlours, salons, studios
  8121 Body Care
   Hair Care = Barbers: beard trims, haircuts for men, wet shaves
     | Hairdressers: hair colouring, haircuts, bridal hair, hair extensions
   Skin Care: facials, manicures, massage, foot care
  8122 Animal Care
   Pet Grooming: dog baths, dog clipping, cat brushing, claw trimming
   Pet Boarding: kennels, cat boarding, dog walking, pet sitting
  8123 Cleaning
   Laundries: washed linen, ironed shirts, dry-cleaned coats, hotel laundry
"""
QUALIFIERS = """
to order|on a contract basis|seasonal|small-scale|organic|for the trade|by mail|mobile|wholesale lots
traditional|in own premises|members only
"""
TEMPLATES = (
    "{thing} {noun}",
    "{thing} {noun}",
    "{thing}, {qualifier}, {noun}",
    "{noun}, {thing}",
    "{thing} and {other} {noun}",
    "{doing} {thing}, {qualifier}",
    "{thing} (except {other}) {noun}",
)
SEE_ROWS = (
    "Dealers -- see type ",
    "Making -- see type of good ",
    "Repair -- see article ",
    "Shops -- see goods sold ",
)
