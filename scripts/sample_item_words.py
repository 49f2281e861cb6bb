"""Words of the made-up video game shop: consoles, genres, themes, accessories. No name is a real one's."""

# name: maker, first and last year, console (C), handheld (H) or computer (P)
PLATFORMS = {
    "Vantis 2": ("Orlune", 2001, 2008, "C"),
    "Vantis 3": ("Orlune", 2006, 2014, "C"),
    "Vantis 4": ("Orlune", 2013, 2021, "C"),
    "Vantis 5": ("Orlune", 2020, 2023, "C"),
    "Vantis Go": ("Orlune", 2005, 2014, "H"),
    "Kubrio": ("Hemmond", 2002, 2008, "C"),
    "Kubrio Arc": ("Hemmond", 2006, 2014, "C"),
    "Kubrio Prime": ("Hemmond", 2013, 2022, "C"),
    "Tavvo Twin": ("Ikorra", 2005, 2014, "H"),
    "Tavvo Sway": ("Ikorra", 2007, 2013, "C"),
    "Tavvo Flip": ("Ikorra", 2017, 2023, "H"),
    "PC": ("", 2001, 2023, "P"),
}

# genre: share, names of its franchises ({n} is invented), what any of its games may say
GENRES = {
    "Role Playing": (
        14,
        "{n} Chronicles|Saga of {n}|{n} Legacy|Tears of {n}|{n} Fantasia",
        """
        Gather a party of {count} companions and cross {land} to recover {thing}.
        Turn-based battles against {foe} reward planning, with {count} classes and hundreds of skills.
        Level up, forge weapons, brew potions and decide what becomes of {hero} in a story of {hours} hours.
        Every village has side quests, and every choice you make changes how {hero}'s journey ends.""",
    ),
    "Shooter": (
        14,
        "{n} Strike|Code {n}|{n} Front|{n} Protocol|Rogue {n}",
        """
        Grab a rifle and fight {foe} through {land} in a first-person campaign of {count} missions.
        Online deathmatch and capture modes for up to {players} players, with unlockable weapons and perks.
        Sergeant {hero} leads the squad: call in air support, breach doors and take {thing} in time.
        Aim, reload, take cover: fast gunplay with destructible scenery and a horde mode against {foe}.""",
    ),
    "Platformer": (
        10,
        "{n}'s Great Leap|{n} Hop|Super {n} Jump|Jumping {n}|Little {n}",
        """
        Run, jump and bounce through {land} in {hours} colourful levels full of secrets.
        Stomp on {foe}, swing from vines and collect {thing} to open the next world.
        Two players can join in: {hero} and a friend double-jump, glide and wall-run together.
        Tight controls, hidden bonus stages and big boss fights make it fun for players of all ages.""",
    ),
    "Adventure": (
        9,
        "Secrets of {n}|{n} Mysteries|The {n} Expedition|Lost in {n}",
        """
        Explore {land}, talk to suspicious characters and piece together the truth about {thing}.
        Point-and-click puzzles, hand-painted scenes and a full cast bring {hero}'s inquiry to life.
        Search for clues, combine objects and outwit {foe} in {count} chapters of story.
        A branching mystery with several endings, told through the eyes of {hero}.""",
    ),
    "Racing": (
        9,
        "{n} Racing|{n} Drift|{n} Grand Tour|Turbo {n}",
        """
        Take the wheel of {hours} detailed vehicles and race through {land}.
        Tune engine, tyres and suspension, then leave {foe} behind on {count} tracks.
        Split-screen for two and online races for up to {players} drivers, with replays and leaderboards.
        Win the season to earn {thing} and unlock new paint jobs, parts and circuits.""",
    ),
    "Sports": (
        11,
        "{n} League|Pro {n}|{n} All-Stars|{n} Sports Club",
        """
        Pick a team and fight for {thing} in {land}, with realistic ball physics and new animations.
        Career mode follows a rookie from the first contract to the hall of fame, season after season.
        Updated rosters, commentary and online tournaments against {foe} for up to {players} players.
        Train, transfer and manage your squad between matches, or jump straight into a quick game.""",
    ),
    "Strategy": (
        8,
        "Empires of {n}|{n} Dominion|Age of {n}|{n} Tactics",
        """
        Gather resources, build bases and command armies across {land} in real time.
        Research {hours} technologies, sign treaties and crush {foe} before they take {thing}.
        Map editor, skirmish mode and multiplayer battles for up to {players} commanders.
        Every unit counts: flank, fortify and starve out {foe} in a campaign of {count} scenarios.""",
    ),
    "Simulation": (
        9,
        "{n} Life|{n} Tycoon|My {n}|{n} Simulator",
        """
        Build, decorate and manage it all your way, from the first day to {thing}.
        Look after money, staff and happy customers in {land} at your own relaxing pace.
        Hundreds of objects to unlock, a day and night cycle, changing seasons and a sandbox mode.
        Deal with {foe}, meet {hours} neighbours and watch your creation grow.""",
    ),
    "Fighting": (
        6,
        "{n} Fist|{n} Duel|Clash of {n}|{n} Brawl",
        """
        Choose one of {hours} fighters and battle {foe} in one-on-one duels.
        Learn combos, counters and super moves, then climb the arcade ladder to win {thing}.
        Training mode, tag teams and ranked online fights; bring a fight stick and a friend.
        {hero} returns with new throws and finishing blows in arenas set in {land}.""",
    ),
    "Puzzle": (
        7,
        "{n} Quest|{n} Puzzle Party|{n} Mind|{n} Blocks",
        """
        Easy to learn and hard to put down: {hours}0 levels of brain-teasing puzzles set in {land}.
        Clear the board, chain combos and beat {foe} to win {thing}.
        Play a quick round on the go, follow the story of {hero}, or try the timed and zen modes.
        Hints help when you are stuck, and daily challenges keep your mind sharp.""",
    ),
    "Horror": (
        6,
        "{n} Asylum|Nightfall {n}|Silence of {n}|{n} Outbreak",
        """
        Survive the night in {land} with a dying flashlight and hardly any ammunition.
        Something is following {hero}: hide from {foe}, hold your breath and look for {thing}.
        Dread, jump scares and gruesome discoveries; for mature players with strong nerves.
        Solve grim puzzles, ration bandages and choose who lives in {count} terrifying chapters.""",
    ),
    "Music & Party": (
        5,
        "{n} Beats|Dance {n}|{n} Stage|{n} Party",
        """
        Play along with {hours} songs, from easy warm-ups to furious solos, and win {thing}.
        Hit the notes in time, keep the streak going and outscore {foe} at your next party.
        Up to {count} players on one screen, with quick mini-games that anyone can pick up.
        Sing, dance and laugh with friends and family in {land}.""",
    ),
}

# theme: genres, lands, foes, things, words of subtitles, and what only its games say
THEMES = {
    "fantasy": (
        "Role Playing,Strategy,Fighting,Adventure",
        "a kingdom of castles and old magic|enchanted forests and dwarven halls",
        "dragons|goblin hordes|an undead king",
        "the shattered crown|a dragon's egg|the seven runes",
        "Crown Throne Rune Oath Grail",
        "Wizards, knights and elves live side by side in a medieval world of swords and sorcery.",
    ),
    "space": (
        "Role Playing,Shooter,Strategy,Platformer",
        "the outer colonies|the rings of a dying planet",
        "alien swarms|rogue androids|void pirates",
        "a lost star map|the last warp core|a distress beacon",
        "Nebula Orbit Horizon Void Signal",
        "Fly your own starship between planets, moons and space stations of a science-fiction galaxy.",
    ),
    "pirates": (
        "Role Playing,Adventure,Strategy,Platformer",
        "palm islands and hidden coves|a sea of sunken cities",
        "krakens|ghost ships|the royal navy",
        "a treasure chart|the admiral's gold|a cursed pearl",
        "Tide Anchor Reef Galleon Tempest",
        "Hoist the black flag, fire the cannons and sail your pirate ship across the Caribbean seas.",
    ),
    "samurai": (
        "Role Playing,Fighting,Strategy",
        "feudal provinces and bamboo valleys|mountain temples",
        "rival clans|masked demons|ronin assassins",
        "the ancestor's katana|the shogun's seal|a jade mask",
        "Katana Lotus Shogun Blossom Honor",
        "Samurai and ninja cross blades under the cherry trees of ancient Japan.",
    ),
    "war": (
        "Shooter,Strategy",
        "bombed-out towns and muddy trenches|the beaches of the western front",
        "tank divisions|snipers|enemy commandos",
        "the enemy codes|a bridge behind the lines|the radar station",
        "Bravo Valor Brigade Siege Convoy",
        "Authentic tanks, rifles and uniforms recreate the great battles of the Second World War.",
    ),
    "agents": (
        "Shooter,Adventure",
        "embassies, casinos and secret labs|a city at the edge of war",
        "terrorist cells|arms dealers|double agents",
        "a stolen warhead|the microfilm|the list of names",
        "Shadow Cipher Vendetta Silent Exile",
        "Spy gadgets, silenced pistols and night vision goggles let special agents strike unseen.",
    ),
    "zombies": (
        "Shooter,Horror",
        "a quarantined city|a shopping mall overrun",
        "the infected|hordes of zombies|mutated dogs",
        "the cure|the last helicopter|patient zero",
        "Infection Quarantine Zero Decay Plague",
        "After the virus got out, zombies rule the streets and survivors barricade themselves at dusk.",
    ),
    "ghosts": (
        "Horror,Adventure",
        "an abandoned mansion in the fog|a flooded psychiatric ward",
        "restless ghosts|a masked killer|whispering shadows",
        "a missing sister's diary|the music box|the truth about the cellar",
        "Whisper Crypt Requiem Fog Seance",
        "Floorboards creak and candles go out: the house is haunted, and its spirits remember you.",
    ),
    "candy": (
        "Platformer,Puzzle",
        "a world made of candy and cake|cloud gardens",
        "grumpy gumdrops|wind-up robots|the sugar king",
        "rainbow stars|lost buttons|golden lollipops",
        "Sugar Rainbow Jelly Sprinkle Bubble",
        "Cute, sweet and bright as a sweet shop, with chocolate rivers and marshmallow hills.",
    ),
    "jungle": (
        "Platformer,Adventure,Racing",
        "a jungle of temples and waterfalls|overgrown ruins",
        "poachers|giant apes|stone guardians",
        "a golden idol|the monkey's mask|the map of the ancients",
        "Idol Vine Temple Jaguar Canopy",
        "Parrots scream, spiders crawl and ancient traps wait among the jungle ruins.",
    ),
    "detective": (
        "Adventure,Puzzle",
        "the rainy streets of old London|a grand hotel on the coast",
        "a clever murderer|jewel thieves|blackmailers",
        "the missing necklace|a poisoned letter|the last alibi",
        "Alibi Verdict Motive Masquerade Affair",
        "Question witnesses, dust for fingerprints and find hidden objects at the crime scene, detective.",
    ),
    "street cars": (
        "Racing",
        "neon city streets at midnight|coastal highways",
        "street crews|the highway police",
        "the underground title|a million in prize money",
        "Underground Midnight Nitro Asphalt Velocity",
        "Sports cars with nitro and neon outrun the police in illegal street races.",
    ),
    "rally": (
        "Racing",
        "gravel mountain passes and snowy forests|desert stages",
        "the clock|works teams",
        "the world rally trophy|the desert cup",
        "Gravel Stage Hairpin Dust Summit",
        "Mud, snow and jumps test rally drivers and their co-drivers on point-to-point stages.",
    ),
    "karts": (
        "Racing,Music & Party",
        "loop-the-loop toy tracks|a funfair",
        "cheeky cartoon rivals|banana throwers",
        "the golden steering wheel|the carnival cup",
        "Carnival Zoom Wacky Rocket Turbo",
        "Cartoon characters in go-karts throw shells, slime and bananas: wild fun for the whole family.",
    ),
    "motorbikes": (
        "Racing",
        "motocross arenas|grand prix circuits",
        "superbike champions|stunt riders",
        "the superbike crown|the freestyle medal",
        "Throttle Supercross Whip Moto Apex",
        "Lean into corners, pop wheelies and pull backflips on dirt bikes and superbikes.",
    ),
    "soccer": (
        "Sports",
        "sold-out football stadiums|street pitches",
        "the greatest clubs|national teams",
        "the league cup|the golden boot",
        "Kickoff Striker Derby Penalty Eleven",
        "Dribble past defenders, bend free kicks and score: soccer with every club and tournament.",
    ),
    "basketball": (
        "Sports",
        "packed arenas|street courts",
        "the reigning champions|trash-talking legends",
        "the championship ring|the finals trophy",
        "Dunk Buzzer Hardwood Crossover Rebound",
        "Alley-oops, slam dunks and three-pointers: basketball from the playground to the finals.",
    ),
    "golf": (
        "Sports",
        "seaside links and alpine greens|famous courses",
        "tour professionals|the course record",
        "the green jacket|the open trophy",
        "Fairway Birdie Albatross Links Eagle",
        "Read the green, mind the wind and drive, chip and putt over eighteen holes of golf.",
    ),
    "skating": (
        "Sports",
        "skate parks and empty pools|city plazas",
        "sponsored pros|security guards",
        "the street medal|a cover photo",
        "Kickflip Grind Ollie Vert Ramp",
        "Ollie, grind and kickflip on your skateboard and link tricks into endless lines.",
    ),
    "wrestling": (
        "Sports,Fighting",
        "steel cages and sold-out rings|a backstage full of chairs",
        "masked heels|the tag team champions",
        "the heavyweight belt|the battle royal",
        "Slam Ringside Suplex Rumble Turnbuckle",
        "Suplexes, ladders and flying elbows: pro wrestling with entrances, feuds and title belts.",
    ),
    "martial arts": (
        "Fighting",
        "underground dojos|rooftops over the harbour",
        "masters of every style|a cyborg champion",
        "the tournament of nine masters|the master's scroll",
        "Dragon Dojo Tempest Fury Vengeance",
        "Karate, kung fu and muay thai masters settle old scores in a tournament without rules.",
    ),
    "farm": (
        "Simulation",
        "a run-down farm in a quiet valley|a cosy village",
        "crows and bad weather|hungry rabbits",
        "the harvest festival|the biggest pumpkin",
        "Harvest Orchard Meadow Valley Barn",
        "Plant crops, milk cows, fish in the pond and maybe fall in love on your own little farm.",
    ),
    "city": (
        "Simulation,Strategy",
        "a growing city of a million people|an island resort",
        "traffic jams|budget crises|storms",
        "city hall|the airport and the skyline",
        "Metropolis Skyline Mayor District Boomtown",
        "Lay out roads, power lines and zones as mayor, and keep taxes low and citizens content.",
    ),
    "trains and planes": (
        "Simulation",
        "real routes from coast to coast|busy airports",
        "fog and delays|engine failure",
        "your captain's licence|the express timetable",
        "Express Cockpit Runway Freight Altitude",
        "Faithful cockpits, instruments and weather let you pilot airliners and drive locomotives.",
    ),
    "pets": (
        "Simulation",
        "a sunny pet salon|a riding stable",
        "muddy paws|a rival stable",
        "best in show|the blue ribbon",
        "Puppy Pony Kitten Paws Stable",
        "Feed, brush and train puppies, kittens and ponies; teach them tricks and dress them up.",
    ),
    "gems": (
        "Puzzle",
        "a temple of glowing jewels|a dwarf's mine",
        "locked tiles|the greedy goblin",
        "the diamond heart|a vault of treasure",
        "Jewel Cascade Sapphire Amulet Prism",
        "Swap sparkling gems and match three or more to make them burst in cascades.",
    ),
    "brain": (
        "Puzzle",
        "a friendly classroom|the professor's study",
        "your own best score|tricky riddles",
        "a younger brain age|the genius medal",
        "Logic Sudoku Crossword Genius Memory",
        "Sudoku, crosswords, arithmetic and memory drills train your brain a few minutes a day.",
    ),
    "guitar": (
        "Music & Party",
        "smoky clubs and festival stages|a world tour",
        "rival bands|the critics",
        "a platinum record|the encore",
        "Riff Encore Amplify Anthem Rockstar",
        "Strum the guitar controller, beat the drums and rock out with the band to stadium anthems.",
    ),
    "dance": (
        "Music & Party",
        "a glittering dance floor|your living room",
        "dance crews|the judges",
        "the dance-off|five stars",
        "Groove Disco Remix Rhythm Fever",
        "Follow the choreography with your whole body: dance workouts and pop hits for everyone.",
    ),
}

COLORS = "Black|White|Red|Blue|Green|Purple|Silver|Rose Gold|Orange|Camouflage|Clear"
DESIGNS = "Galaxy|Skulls|Carbon Fiber|Wood Grain|Flames|Graffiti|Koi Fish|Sunset|Marble|Cats|Circuit Board"
# kind: share, category path, platforms (C, H, P), names, variants, what it may say
KINDS = {
    "Controllers": (
        16,
        "Controllers",
        "CP",
        "Wireless Controller|Wired Controller|Pro Gamepad|Bluetooth Controller",
        COLORS,
        """
        Ergonomic gamepad with dual vibration motors, precise analog sticks and responsive triggers.
        Textured rubber grips stay comfortable in long sessions; pairs with {platform} in seconds.
        Rechargeable battery lasts up to {hours} hours, or play while charging over the {count} ft cable.""",
    ),
    "Headsets": (
        13,
        "Headsets",
        "CHP",
        "Gaming Headset|Stereo Headset with Mic|Wireless Headset|Surround Sound Headset",
        COLORS,
        """
        Hear every footstep: 50 mm drivers, deep bass and virtual surround sound for {platform}.
        Noise-cancelling microphone flips up to mute, so teammates hear your voice and not the room.
        Soft memory-foam ear cushions and an adjustable headband, with volume control on the cord.""",
    ),
    "Charging Docks": (
        7,
        "Batteries & Chargers",
        "C",
        "Dual Charging Dock|Charging Station|Charging Stand with LED",
        COLORS,
        """
        Charges two {platform} controllers at once and tidies up your shelf.
        LED lights show when the battery pack is full; overcharge protection built in.
        Drop the controller on the dock and it is ready again in {count} hours.""",
    ),
    "Battery Packs": (
        5,
        "Batteries & Chargers",
        "CH",
        "Rechargeable Battery Pack|Extended Battery|Power Bank Grip",
        "1200 mAh|2000 mAh|3000 mAh|2-Pack|4-Pack",
        """
        Replace worn-out batteries: high-capacity lithium cells for hours of extra play on {platform}.
        Lasts up to {hours} hours a charge and survives a thousand cycles.
        Snaps in without tools and charges with the supplied USB cord.""",
    ),
    "Cables": (
        10,
        "Cables & Adapters",
        "CP",
        "HDMI Cable|AV Composite Cable|USB Charging Cable|Extension Cord|Optical Audio Cable",
        "3 ft|6 ft|10 ft|15 ft|2-Pack",
        """
        Gold-plated connectors and double shielding carry a clean signal from your {platform} to the TV.
        Braided nylon jacket withstands tangles, pets and bends.
        Plug and play, no drivers needed; works with every model of {platform}.""",
    ),
    "Power Supplies": (
        5,
        "Cables & Adapters",
        "CH",
        "AC Adapter|Power Supply Brick|Wall Charger|Car Charger",
        "US Plug|110-240 V|Compact|with Travel Pouch",
        """
        Replacement power adapter for {platform} with protection against overheating and short circuits.
        Input 100-240 V works worldwide; the cord is {count} feet long.
        Use it at home or in the car when the original charger is lost or broken.""",
    ),
    "Cases": (
        11,
        "Cases & Storage",
        "H",
        "Hard Carrying Case|Travel Pouch|Deluxe Carry Bag|Game Card Case",
        COLORS,
        """
        Shockproof EVA shell with soft lining keeps your {platform} safe from drops and scratches.
        Mesh pocket and slots hold {hours} game cards, charger and earphones.
        Strong zipper, wrist strap and a handle for travel: fits in a school bag.""",
    ),
    "Skins": (
        9,
        "Faceplates, Protectors & Skins",
        "CH",
        "Vinyl Skin Decal|Sticker Wrap|Silicone Sleeve|Faceplate Cover",
        DESIGNS,
        """
        Change the look of your {platform}: vivid print, precise cut-outs, goes on without bubbles.
        Peels off without residue and guards against dust, fingerprints and scratches.
        Set of decals for the console and two controllers; wipes clean with a damp cloth.""",
    ),
    "Screen Protectors": (
        5,
        "Faceplates, Protectors & Skins",
        "H",
        "Tempered Glass Screen Protector|Anti-Glare Screen Film",
        "1-Pack|2-Pack|3-Pack|with Cleaning Kit",
        """
        9H tempered glass, crystal clear and thin, protects the {platform} display from scratches.
        Bubble-free installation with wipes, dust stickers and a squeegee in the box.
        Oil-repellent coating keeps the touch screen smooth and free of fingerprints.""",
    ),
    "Thumb Grips": (
        4,
        "Thumb Grips",
        "C",
        "Thumbstick Grips|Analog Stick Caps|Trigger Extenders",
        "4-Pack|8-Pack|10-Pack|Tall and Short Set",
        """
        Silicone caps raise the analog sticks of your {platform} controller for a better aim.
        Non-slip surface gives sweaty thumbs more grip in shooters.
        Stretch over the sticks in seconds and protect them from wear.""",
    ),
    "Memory": (
        5,
        "Memory",
        "CHP",
        "Memory Card|Hard Drive Upgrade|Flash Storage Card|External Drive",
        "8 GB|64 GB|128 GB|500 GB|1 TB|2 TB",
        """
        More room for saves, downloads and patches on your {platform}.
        Fast read and write speeds cut loading times; preformatted and ready to use.
        Move your game library in minutes and keep your progress safe.""",
    ),
    "Racing Wheels": (
        4,
        "Racing Wheels",
        "CP",
        "Racing Wheel with Pedals|Force Feedback Wheel|Steering Wheel Set",
        "900 Degree|270 Degree|with Shifter|with Clamp",
        """
        Feel the road: force feedback, leather rim and metal pedals for racing games on {platform}.
        Paddle shifters behind the wheel, and a clamp that fits any desk.
        Brake harder and steer finer than with any gamepad.""",
    ),
    "Fight Sticks": (
        2,
        "Joysticks",
        "CP",
        "Arcade Fight Stick|Tournament Joystick|Flight Stick with Throttle",
        COLORS,
        """
        Arcade-quality joystick with eight concave buttons and a microswitch lever.
        Heavy base with rubber feet does not slide however hard you play on {platform}.
        Turbo and macro buttons; easy to open and modify.""",
    ),
    "Keyboards": (
        5,
        "Keyboards",
        "P",
        "Mechanical Gaming Keyboard|RGB Keyboard|Compact Keyboard",
        "Red Switches|Blue Switches|Brown Switches|White Backlight",
        """
        Mechanical switches with anti-ghosting register every key, rated for 50 million presses.
        RGB backlight in sixteen million colours and programmable macro keys.
        Aluminium frame, detachable wrist rest and a braided USB cable.""",
    ),
    "Mice": (
        5,
        "Mice",
        "P",
        "Gaming Mouse|Wireless Gaming Mouse|Ergonomic Mouse|Large Mouse Pad",
        COLORS,
        """
        Optical sensor up to 16,000 DPI tracks every flick; change sensitivity on the fly.
        Adjustable weights, side buttons and a light honeycomb shell.
        Smooth glide and a non-slip grip for hours of play.""",
    ),
    "Cooling Stands": (
        5,
        "Cooling Systems",
        "C",
        "Vertical Cooling Stand|Cooling Fan|Stand with Game Storage",
        COLORS,
        """
        Quiet fans draw hot air out of the {platform} and keep it from overheating.
        Stands the console upright and stores {hours} game discs to save space.
        Powered over USB, with three extra ports for accessories.""",
    ),
    "Chairs": (
        3,
        "Gaming Chairs",
        "CP",
        "Gaming Chair|Rocker Chair|Racing Style Chair with Footrest",
        COLORS,
        """
        High-back chair with lumbar pillow and headrest supports you through long sessions.
        Reclines to 155 degrees and holds up to 300 lbs on a steel frame.
        Padded armrests, smooth casters and wipe-clean faux leather.""",
    ),
    "Motion Accessories": (
        4,
        "Motion Controllers",
        "C",
        "Motion Remote|Sensor Bar|Balance Board|Sport Grip Kit",
        COLORS,
        """
        Swing, bowl and dance: motion sensors follow your hand for active games on {platform}.
        Wrist strap and soft sleeve save your TV from flying remotes.
        Works with sports, fitness and party games for the whole family.""",
    ),
}

# What is neither game nor accessory, for a platform (C, H) or a franchise (no letter): share, titles, texts
OTHERS = {
    "Consoles": (
        2,
        "CH",
        "{maker} {platform} Console {size} - {color}|{maker} {platform} {size} {color} (Renewed)"
        "|{maker} {platform} {size} - {franchise} Bundle",
        """
        The {platform} game system in {color}, with controller, power and HDMI cable.
        Play games, stream films and go online with friends.""",
    ),
    "Prepaid Cards": (
        2,
        "CH",
        "{platform} Store {value} Gift Card [Digital Code]|{platform} Online {months} Month Membership"
        "|{franchise} {value} Coins Pack [Online Game Code]",
        """
        Add funds to your wallet and download games, add-ons and films; the code arrives by e-mail.
        Redeem on {platform}; prepaid codes cannot be returned.""",
    ),
    "Game Guides": (
        2,
        "",
        "{title} Official Strategy Guide|{title} Game Guide (Paperback)|{title}: The Complete Walkthrough",
        """
        Maps, item lists and step-by-step solutions for every quest in {title}.
        A printed {genre} guide with tips from the makers and a fold-out poster.""",
    ),
    "Fan Merchandise": (
        3,
        "",
        "{hero} Collectible Figure - {franchise} Series|{hero} Plush Toy - {franchise}"
        "|{franchise} Wall Poster|{franchise} {word} Keychain|{hero} {word} Interactive Figure - {franchise}",
        """
        Bring {hero} home: a collectible for fans from the world of {franchise}.
        Officially licensed; makes a great gift for collectors of {genre} games.""",
    ),
}
SIZES, VALUES, MONTHS = "160 GB|250 GB|500 GB|1 TB|Slim|Lite", "$10|$20|$25|$50|$100", "1|3|6|12"

EDITIONS = "Deluxe Edition|Collector's Edition|Game of the Year Edition|Limited Edition|Greatest Hits"
SUBTITLES = "The|Rise of the|The Lost|Return of the|The Final|Beyond the|Shadow of the"
RATINGS = "Everyone|Everyone 10+|Teen|Mature"
GAME_CLOSINGS = (
    "Brand new and factory sealed.|Requires {hours} GB of free space.|English, French and Spanish text."
    "|Supports up to {players} players online.|Disc in original case with manual.|For ages {age} and up."
)
GAME_FEATURES = """
    {genre} game for {platform}
    Up to {players} players
    {hours}+ hours of play
    Online leaderboards
    From the makers of {franchise}
    New {theme} levels
    Local co-op & versus modes"""
ACCESSORY_FEATURES = """
    Made for {platform}
    One-year warranty
    {variant}
    Easy to set up
    No drivers needed"""
